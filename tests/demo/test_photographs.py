import numpy as np
import pytest
from PIL import Image

from vistok.data import ImageFolder, open_images
from vistok.demo.photographs import MAX_SIDE, Sources, check_photographs, copy_photographs, tiles
from vistok.downstream.views import photo_name
from vistok.errors import DataError


def picture(path, width=96, height=80, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_own_photographs_are_split_by_whole_images_and_reduced(tmp_path):
    for number in range(6):
        picture(tmp_path / "own" / f"{number}.png", width=1000, height=500, seed=number)
    sources, left_out = copy_photographs(tmp_path / "own", tmp_path / "copies")
    train, held_out = open_images(sources.train), open_images(sources.held_out)
    assert list(map(photo_name, held_out.keys())) == ["4.png"]
    assert list(map(photo_name, train.keys())) == ["0.png", "1.png", "2.png", "3.png", "5.png"]
    assert train.read(0).size == (MAX_SIDE, MAX_SIDE // 2)
    assert left_out == {}


def test_files_that_cannot_be_used_are_left_out_with_a_reason(tmp_path):
    for name in ("a/x.png", "a-x.png", "z.png"):
        picture(tmp_path / "own" / name)
    picture(tmp_path / "own" / "small.png", width=500, height=20)
    (tmp_path / "own" / "broken.png").write_bytes(b"no image")
    sources, left_out = copy_photographs(tmp_path / "own", tmp_path / "copies")
    assert set(left_out) == {"small.png", "broken.png"}
    assert "500 x 20" in left_out["small.png"]
    copies = [open_images(what) for what in (sources.train, sources.held_out)]
    names = {photo_name(key) for images in copies for key in list(images.keys())}
    assert names == {"a-x.png", "a-x.png_", "z.png"}


def test_a_folder_without_a_usable_image_is_refused(tmp_path):
    for number in range(3):
        picture(tmp_path / f"{number}.png", width=30, height=30)
    with pytest.raises(DataError, match="no usable image to train on"):
        copy_photographs(tmp_path, tmp_path / "copies")


def test_tiles_say_photo_view_and_split_and_held_out_ones_are_plain(tmp_path):
    picture(tmp_path / "train" / "p.png", width=160, height=128)
    picture(tmp_path / "held_out" / "q.png", width=160, height=128)
    found = tiles(ImageFolder(tmp_path / "train"), ImageFolder(tmp_path / "held_out"))
    items = [found[i] for i in range(len(found))]
    views = {(item["split"], item["photo"], item["view"]) for item in items}
    assert ("train", "p", "full-mirrored") in views and ("train", "p", "three-quarters") in views
    assert {view for split, _, view in views if split == "held_out"} == {"full", "half"}
    assert len(found.keys()) == len(set(found.keys()))
    assert all(item["image"].shape == (3, 64, 64) for item in items)


def test_the_packaged_photographs_never_share_an_image_between_the_splits():
    sources = Sources()
    train, held_out = open_images(sources.train).keys(), open_images(sources.held_out).keys()
    assert "coffee" in held_out and "astronaut" in train
    assert not set(train) & set(held_out)


def test_a_check_of_photographs_reads_them_and_writes_nothing(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.jpg").write_text("no image")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"no usable image to train on: 0\.jpg is not an image"):
        check_photographs(tmp_path)
    picture(tmp_path / "0.png")
    with pytest.raises(DataError, match="no usable image to hold out"):
        check_photographs(tmp_path)
    picture(tmp_path / "9.png")
    check_photographs(tmp_path)
    assert sorted(tmp_path.glob("*.jpg")) == before


def test_a_folder_with_no_image_or_one_says_which(tmp_path):
    with pytest.raises(DataError, match="has no images"):
        check_photographs(tmp_path)
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"named like an image, 'text\.jpg'"):
        check_photographs(tmp_path)
