import pytest
from PIL import Image

from vistok.data import Fields, ImageFiles, ImageFolder
from vistok.errors import DataError, ImageError


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


def test_keys_are_sorted_relative_paths_with_suffix(tmp_path):
    for name in ("b/z.JPG", "a.png", "b/a/x.webp", "A.png", "a.jpeg", ".hidden.png", ".cache/x.png"):
        touch(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    assert ImageFolder(tmp_path).keys() == ["A.png", "a.jpeg", "a.png", "b/a/x.webp", "b/z.JPG"]


def test_labels_are_the_first_sub_folders(tmp_path):
    for name in ("dog/1.png", "cat/deep/2.png", "dog/3.png"):
        touch(tmp_path / name)
    dataset = ImageFolder(tmp_path, labels=True)
    assert dataset.classes == ["cat", "dog"]
    assert [dataset[i]["label"] for i in range(3)] == [0, 1, 1]
    assert "label" not in ImageFolder(tmp_path)[0]


def test_an_image_outside_the_class_folders_is_refused(tmp_path):
    touch(tmp_path / "dog/1.png")
    touch(tmp_path / "loose.png")
    with pytest.raises(DataError, match=r"loose\.png.*labels=False"):
        ImageFolder(tmp_path, labels=True)


def test_folders_without_images_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone.*does not exist"):
        ImageFolder(tmp_path / "gone")
    with pytest.raises(DataError, match="has no images"):
        ImageFolder(tmp_path)
    touch(tmp_path / "a.png")
    with pytest.raises(DataError, match="not a folder"):
        ImageFolder(tmp_path / "a.png")


def test_loops_of_links_end(tmp_path):
    touch(tmp_path / "a.png")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert ImageFolder(tmp_path).keys() == ["a.png"]


def test_odd_names_are_distinct_keys(tmp_path):
    names = sorted(
        ["caf\u00e9.png", "cafe\u0301.png", "a b.png", "a.b.png", "new\nline.png", "X.png", "x.png"]
    )
    for name in names:
        touch(tmp_path / name)
    assert ImageFolder(tmp_path).keys() == names
    assert ImageFolder(tmp_path)[0]["key"] == names[0]


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    touch(tmp_path / "good.png")
    (tmp_path / b"bad\xff.png".decode(errors="surrogateescape")).write_bytes(b"")
    with pytest.raises(DataError, match="not UTF-8"):
        ImageFolder(tmp_path)


def test_a_file_that_vanishes_is_an_image_error(tmp_path):
    touch(tmp_path / "a.png")
    dataset = ImageFolder(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(ImageError, match=r"a\.png does not exist"):
        dataset[0]


def test_files_need_keys_that_differ(tmp_path):
    touch(tmp_path / "a.png")
    touch(tmp_path / "b/a.png")
    paths = [tmp_path / "a.png", tmp_path / "b/a.png"]
    with pytest.raises(DataError, match=r"'a\.png' occurs twice"):
        ImageFiles(paths)
    assert ImageFiles(paths, keys=["one", "two"]).keys() == ["one", "two"]
    with pytest.raises(DataError, match="0 paths"):
        ImageFiles([])


def test_class_names_and_numbers_are_given_if_they_are_asked_for(tmp_path):
    for name in ("dog/1.png", "cat/2.png"):
        touch(tmp_path / name)
    dataset = ImageFolder(tmp_path, fields=Fields.parse("label,animal=class"))
    assert [dataset.extras(i) for i in range(2)] == [
        {"label": 0, "animal": "cat"},
        {"label": 1, "animal": "dog"},
    ]
    with pytest.raises(DataError, match="has no 'width' to choose as a field: there is label, class"):
        ImageFolder(tmp_path, fields=Fields.parse("width"))


def test_a_text_beside_an_image_is_its_caption(tmp_path):
    for name in ("a.b.png", "c.png"):
        touch(tmp_path / name)
    (tmp_path / "a.b.txt").write_text("a caf\u00e9\n")
    dataset = ImageFolder(tmp_path)
    assert dataset.extras(0) == {"caption": "a caf\u00e9"} and dataset.extras(1) == {}
    (tmp_path / "c.txt").write_bytes(b"\xff")
    with pytest.raises(
        DataError, match=r"caption .*c\.txt' cannot be read: it is not UTF-8; mend it or remove it"
    ):
        dataset[1]


def test_translations_of_a_caption_are_left_out(tmp_path):
    touch(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(
        "A flower.\nde.utf8=Eine Blume.\npt_BR.utf8=Uma flor.\nca@valencia.utf8=Una flor.\n"
    )
    assert ImageFolder(tmp_path).extras(0) == {"caption": "A flower."}
    (tmp_path / "a.txt").write_text("one line\n\nand a.utf8=second\n")
    assert ImageFolder(tmp_path).extras(0) == {"caption": "one line\n\nand a.utf8=second"}


def test_a_mirrored_stamp_has_the_caption_of_its_original_unless_it_has_its_own(tmp_path):
    for name in ("a.png", "a_mirror.png", "b_flip.png", "c_mirror.png"):
        touch(tmp_path / name)
    (tmp_path / "a.txt").write_text("A car.")
    (tmp_path / "c_mirror.txt").write_text("A mirror.")
    dataset = ImageFolder(tmp_path)
    assert [dataset.extras(i).get("caption") for i in range(4)] == ["A car.", "A car.", None, "A mirror."]


def test_links_to_images_are_read_and_links_in_a_loop_are_image_errors(tmp_path):
    touch(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("a.png")
    (tmp_path / "x.png").symlink_to("y.png")
    (tmp_path / "y.png").symlink_to("x.png")
    dataset = ImageFolder(tmp_path)
    assert dataset.keys() == ["a.png", "b.png", "x.png", "y.png"] and dataset[1]["key"] == "b.png"
    with pytest.raises(ImageError, match=r"x\.png cannot be opened"):
        dataset[2]


def test_a_file_that_changes_is_read_as_it_is_then(tmp_path):
    touch(tmp_path / "a.png")
    dataset = ImageFolder(tmp_path)
    Image.new("RGB", (6, 2), (255, 0, 0)).save(tmp_path / "a.png")
    assert dataset[0]["image"].shape == (3, 2, 6)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-20])
    with pytest.raises(ImageError, match=r"a\.png is damaged"):
        dataset[0]
