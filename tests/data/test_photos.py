import importlib.util

import pytest
from PIL import Image

from vistok.data import Photos
from vistok.errors import DataError

needs_photos = pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="needs vistok[demo]")


@needs_photos
def test_whole_images_are_held_out():
    train, held_out = Photos("train").keys(), Photos("held_out").keys()
    assert {"astronaut", "chelsea", "hubble_deep_field", "rocket"} <= set(train)
    assert "coffee" in held_out and not set(train) & set(held_out)
    assert Photos("all").keys() == sorted(train + held_out)


@needs_photos
def test_photos_are_photographs():
    photos = Photos("train")
    assert photos.pil("astronaut").size == (512, 512)
    assert photos.pil("astronaut").getpixel((0, 0)) == (154, 147, 151)


def test_without_scikit_image_the_remedy_is_told(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "skimage" else real(name))
    with pytest.raises(DataError, match=r"pip install 'vistok\[demo\]'"):
        Photos()


def test_an_unknown_split_is_refused():
    with pytest.raises(DataError, match=r"'test'.*train, held_out, all"):
        Photos("test")


@pytest.mark.parametrize(("count", "held_out"), [(2, [1]), (4, [3]), (5, [4]), (11, [4, 9])])
def test_every_fifth_of_a_folder_is_held_out(tmp_path, count, held_out):
    names = [f"{i:02d}.png" for i in range(count)]
    for name in names:
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert Photos("held_out", tmp_path).keys() == [names[i] for i in held_out]
    assert Photos("train", tmp_path).keys() == [n for i, n in enumerate(names) if i not in held_out]
    assert Photos("all", tmp_path).keys() == names


def test_a_single_image_cannot_be_split(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="at least 2"):
        Photos("train", tmp_path)
