import json

import pytest
from PIL import Image

from vistok.data import Fields, PathList, open_images
from vistok.errors import DataError, ImageError

WEIRD = [
    "a.b.c.png", ".hidden.png", "dir/sub/x.png", "with space.png", "caf\u00e9.png", "cafe\u0301.png", "Case.png",
    "case.png", "k" * 250 + ".png", "../up.png", "#hash.png", "-rf.png", "tab\t.png",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A folder with images of odd names; the list goes into it."""
    root = tmp_path / "lists"
    root.mkdir()
    for value, name in enumerate([*WEIRD, "new\nline.png", "a.png", "b.png"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (value, 0, 0)).save(root / name)
    return root


def red(item):
    return round(float((item["image"][0, 0, 0] + 1) * 127.5))


def written(path, text):
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_a_text_file_lists_paths_of_every_kind(folder):
    images = open_images(written(folder / "list.txt", "\r\n".join(WEIRD) + "\n\n"))
    assert isinstance(images, PathList) and images.keys() == WEIRD
    assert [red(item) for item in images] == list(range(len(WEIRD)))


def test_paths_are_relative_to_the_list_or_absolute(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    lines = ["../lists/a.png", str(folder / "b.png")]
    images = PathList(written(tmp_path / "elsewhere" / "x.txt", "\n".join(lines)))
    assert images.keys() == lines and [red(item) for item in images] == [14, 15]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_tables_carry_labels_captions_and_chosen_fields(folder, suffix):
    comma = "," if suffix == ".csv" else "\t"
    rows = [
        ["file_name", "label", "text", "width", "id"],
        ["a.png", "3", f'"a ""cat""{comma} two\nlines"', "04", "x"],
        ['"new\nline.png"', "dog", "", "", "y"],
    ]
    path = written(folder / f"t{suffix}", "\ufeff" + "\r\n".join(comma.join(row) for row in rows) + "\r\n")
    images = open_images(path, fields=Fields.parse("width,key=id"))
    assert images.keys() == ["x", "y"]
    assert images.extras(0) == {"label": 3, "caption": f'a "cat"{comma} two\nlines', "width": "04"}
    assert images.extras(1) == {"label": "dog"} and red(images[1]) == 13


def test_json_lines_keep_their_types_and_may_differ(folder):
    rows = [
        {"path": "a.png", "label": 3, "size_px": [4, 4], "score": 0.5},
        {"path": "new\nline.png", "caption": "two\nlines", "score": None},
    ]
    path = written(folder / "t.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
    images = open_images(path, fields=Fields.parse("size_px,score"))
    assert images.keys() == ["a.png", "new\nline.png"]
    assert images[0]["size_px"] == [4, 4] and images.extras(0)["score"] == 0.5 and images[0]["label"] == 3
    assert images.extras(1) == {"caption": "two\nlines"}


def test_a_column_may_be_chosen_for_the_path(folder):
    path = written(folder / "t.csv", "photo,file\na.png,nonsense\n")
    assert PathList(path, fields=Fields.parse("image=photo")).keys() == ["a.png"]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("l.txt", "a.png\nb.png\na.png\n", r"'a\.png' is in line 1 of .* and again in line 3: remove one"),
        ("l.txt", "\n", "lists no images"),
        ("l.txt", "https://example.com/a.jpg\n", "download the images first"),
        ("l.csv", "", "lists no images"),
        ("l.csv", "path\n", "lists no images"),
        ("l.csv", "url,label\nx,1\n", "no column of paths.*there is url, label"),
        ("l.csv", "path,label\na.png\n", "line 2 has 1 cells, its header has 2"),
        ("l.csv", "path,path\na.png,b.png\n", "two columns 'path'"),
        ("l.csv", 'path\n"a.png\n', "cannot be read as a table"),
        ("l.csv", "path,label\n,1\n", "line 2 names no image"),
        ("l.jsonl", "{}\n", "no column of paths"),
        ("l.jsonl", '{"path": 1}\n', "line 1 names no image"),
        ("l.jsonl", '{"path": "a.png"}\n{\n', "line 2 is not JSON"),
        ("l.jsonl", "[" * 100000, "line 1 is not JSON"),
        ("l.jsonl", "[1]\n", "line 1 is not an object"),
    ],
)
def test_lists_that_cannot_be_used_are_named_with_the_line(folder, name, text, reason):
    with pytest.raises(DataError, match=reason) as caught:
        open_images(written(folder / name, text))
    assert "\n" not in str(caught.value)


def test_keys_that_are_chosen_must_be_there_and_differ(folder):
    path = written(folder / "t.csv", "path,id\na.png,1\nb.png,1\n")
    with pytest.raises(DataError, match=r"key '1' is in line 2 .* again in line 3"):
        PathList(path, fields=Fields.parse("key=id"))
    path = written(folder / "t.csv", "path,id\na.png,\n")
    with pytest.raises(DataError, match="line 2 has no key in column 'id'"):
        PathList(path, fields=Fields.parse("key=id"))
    with pytest.raises(DataError, match="has no 'nope' to choose"):
        PathList(path, fields=Fields.parse("nope"))


def test_a_list_that_is_not_text_or_not_there_is_named(folder):
    (folder / "l.txt").write_bytes(b"a\xff.png\n")
    with pytest.raises(DataError, match="not UTF-8"):
        PathList(folder / "l.txt")
    with pytest.raises(DataError, match="No such file"):
        PathList(folder / "gone.txt")


def test_an_image_that_is_not_there_is_told_when_it_is_read(folder):
    images = PathList(written(folder / "l.txt", "gone.png\na.png\n"))
    assert red(images[1]) == 14
    with pytest.raises(ImageError, match=r"gone\.png does not exist"):
        images[0]
