import itertools
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from vistok.data import ImageDataset, PositionSampler, Procedural, RandomCrops, Tiles
from vistok.data.crops import DecodedImages
from vistok.errors import DataError
from vistok.tokenizer.preprocess import to_pil, to_tensor


class Pictures(ImageDataset):
    """Images in memory that count how often they are read."""

    def __init__(self, *images):
        super().__init__()
        self.images, self.reads = images, 0

    def keys(self):
        return [f"p{i}" for i in range(len(self.images))]

    def source(self, index):
        self.reads += 1
        return self.images[index]

    def extras(self, index):
        return {"label": index}


def coordinates(width, height):
    """Red is the column, green the row."""
    y, x = np.mgrid[0:height, 0:width].astype(np.uint8)
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], -1))


def test_a_crop_is_a_function_of_seed_and_position():
    dataset = Procedural(3, 48)
    crops, again = RandomCrops(dataset, 16, seed=5), RandomCrops(dataset, 16, seed=5)
    forward = [crops[p] for p in range(12)]
    for p in reversed(range(12)):
        assert torch.equal(forward[p]["image"], again[p]["image"]) and forward[p]["key"] == again[p]["key"]
    other = RandomCrops(dataset, 16, seed=6)
    assert any(not torch.equal(forward[p]["image"], other[p]["image"]) for p in range(12))


def test_a_stream_cut_anywhere_goes_on_exactly():
    crops = RandomCrops(Procedural(4, 32), 8)
    whole = [[crops[p]["image"] for p in batch] for batch in PositionSampler(3, num_batches=6)]
    sampler = PositionSampler(3, num_batches=2)
    sampler.load_state_dict(PositionSampler(3).state_dict(4))
    copy = pickle.loads(pickle.dumps(crops))
    resumed = [[copy[p]["image"] for p in batch] for batch in sampler]
    for a, b in zip(itertools.chain(*whole[4:]), itertools.chain(*resumed), strict=True):
        assert torch.equal(a, b)


def test_an_epoch_visits_every_image_and_carries_its_extras():
    crops = RandomCrops(Pictures(coordinates(20, 20), coordinates(30, 20), coordinates(20, 30)), 8)
    items = [crops[p] for p in range(3, 6)]
    assert sorted(item["key"] for item in items) == ["p0", "p1", "p2"]
    assert all(
        item["label"] == int(item["key"][1]) and item["position"] == 3 + i for i, item in enumerate(items)
    )
    assert all(item["image"].shape == (3, 8, 8) for item in items)


def test_crops_without_resize_are_regions_of_the_image_all_of_them_reached():
    crops = RandomCrops(Pictures(coordinates(20, 12)), 10, scale=(0.1, 0.1), flip=False)
    corners = set()
    for position in range(400):
        pixels = np.asarray(to_pil(crops[position]["image"])).astype(int)
        left, top = pixels[0, 0, :2]
        assert (pixels[..., 0] == left + np.arange(10)).all()
        assert (pixels[..., 1] == top + np.arange(10)[:, None]).all()
        corners.add((left, top))
    assert corners == {(x, y) for x in range(11) for y in range(3)}


def test_about_half_of_the_crops_are_mirrored():
    crops = RandomCrops(Pictures(coordinates(16, 16)), 16, scale=(1.0, 1.0))
    flips = [bool(crops[p]["image"][0, 0, 0] > crops[p]["image"][0, 0, -1]) for p in range(200)]
    assert 70 < sum(flips) < 130


def test_the_scale_bounds_the_region():
    crops = RandomCrops(Pictures(coordinates(200, 200)), 16, scale=(0.25, 0.5), flip=False)
    spans = []
    for position in range(60):
        pixels = np.asarray(to_pil(crops[position]["image"])).astype(int)
        spans.append((pixels[8, -1, 0] - pixels[8, 0, 0]) * 16 / 15)
    assert 40 < min(spans) < 65 and 85 < max(spans) < 110


def test_an_image_smaller_than_a_crop_is_enlarged_whole():
    crops = RandomCrops(Pictures(Image.new("RGB", (3, 5), (10, 20, 30))), 8)
    assert to_pil(crops[0]["image"]).getpixel((4, 4)) == (10, 20, 30)


def test_images_are_decoded_once_while_they_fit():
    dataset = Pictures(coordinates(20, 20), coordinates(20, 20))
    crops = RandomCrops(dataset, 8)
    for position in range(20):
        _ = crops[position]
    assert dataset.reads == 2


def test_the_least_recently_used_image_goes_first():
    dataset = Pictures(*[coordinates(10, 10) for _ in range(3)])
    decoded = DecodedImages(dataset, 600)
    for index in (0, 1, 0, 2, 0):
        decoded.read(index)
    assert dataset.reads == 3
    decoded.read(1)
    assert dataset.reads == 4
    nothing_kept = DecodedImages(dataset, 0)
    nothing_kept.read(0), nothing_kept.read(0)
    assert dataset.reads == 6


@pytest.mark.parametrize(
    "arguments", [{"size": 0}, {"size": 8, "scale": (0.0, 1.0)}, {"size": 8, "scale": (0.9, 0.5)}]
)
def test_senseless_crops_are_refused(arguments):
    with pytest.raises(DataError, match=r"size|scale"):
        RandomCrops(Procedural(1, 8), **arguments)


def test_negative_positions_are_refused():
    with pytest.raises(IndexError, match="negative"):
        RandomCrops(Procedural(1, 8), 4)[-1]


def test_tiles_cover_whole_cells_from_the_top_left():
    source = coordinates(21, 10)
    tiles = Tiles(Pictures(source, coordinates(4, 4)), 5)
    assert tiles.keys() == [f"p0_r{r:02d}_c{c:02d}" for r in range(2) for c in range(4)]
    item = tiles[tiles.keys().index("p0_r01_c02")]
    assert torch.equal(item["image"], to_tensor(source.crop((10, 5, 15, 10)))) and item["label"] == 0


def test_tiles_larger_than_every_image_are_refused():
    with pytest.raises(DataError, match="none of the 1 images holds a tile of 9 x 9"):
        Tiles(Procedural(1, 8), 9)
