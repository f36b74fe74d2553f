import pytest
from PIL import Image

from vistok.data import ImageFiles, ImageFolder
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
