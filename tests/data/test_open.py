import importlib.util
import tarfile

import pytest
from PIL import Image

from vistok.data import ImageFiles, ImageFolder, Photos, Procedural, WebDatasetImages, open_images
from vistok.errors import DataError
from vistok.spec import ImagePolicy


def test_procedural_names_give_count_and_side():
    dataset = open_images("procedural:5:24")
    assert isinstance(dataset, Procedural) and len(dataset) == 5 and dataset[0]["image"].shape == (3, 24, 24)
    assert open_images("procedural:2", ImagePolicy(size=(16, 32)))[0]["image"].shape == (3, 16, 32)
    for wrong in ("procedural", "procedural:", "procedural:many", "procedural:1:2:3"):
        with pytest.raises(DataError, match="procedural:100"):
            open_images(wrong)


@pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="needs vistok[demo]")
def test_photos_have_splits():
    assert isinstance(open_images("photos"), Photos)
    held_out, train = open_images("photos:held_out").keys(), open_images("photos:train").keys()
    assert "coffee" in held_out and "coffee" not in train
    with pytest.raises(DataError, match="no split 'test'"):
        open_images("photos:test")


def test_paths_are_opened_by_what_they_are(tmp_path):
    images, tars = tmp_path / "images", tmp_path / "tars"
    images.mkdir(), tars.mkdir()
    Image.new("RGB", (8, 8)).save(images / "a.png")
    for name in ("0.tar", "1.tar"):
        with tarfile.open(tars / name, "w") as archive:
            archive.add(images / "a.png", f"{name[0]}.png")
    assert isinstance(open_images(images), ImageFolder)
    assert isinstance(open_images(str(images / "a.png")), ImageFiles)
    assert open_images(str(tars)).keys() == open_images(str(tars / "{0..1}.tar")).keys() == ["0", "1"]
    assert isinstance(open_images(str(tars / "1.tar")), WebDatasetImages)
    Image.new("RGB", (8, 8)).save(tars / "loose.png")
    with pytest.raises(DataError, match="both tars and images"):
        open_images(tars)


@pytest.mark.parametrize(
    "what", ["nowhere", "pyproject.toml", "pipe:cat x.tar", "https://example.com/{0..3}.tar"]
)
def test_what_cannot_be_opened_is_named_with_a_remedy(what):
    with pytest.raises(DataError, match=r"give photos|by its name|not a local path|--allow-pipes"):
        open_images(what)
