"""Crops: an endless random stream for training, whole grids for evaluation."""

from __future__ import annotations

import random
from collections import OrderedDict
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from vistok.data.base import ImageDataset
from vistok.data.sampling import EpochOrder
from vistok.errors import DataError
from vistok.tokenizer.preprocess import to_tensor

_SEED_SHIFT = 1 << 64


class RandomCrops(Dataset[dict[str, Any]]):
    """An endless stream of random crops: ``crops[position]`` is a function of (seed, position), for any position >= 0.

    Each epoch of ``len(dataset)`` positions visits each image once, in a new order. A crop covers a share of the image
    drawn from ``scale`` and never enlarges pixels unless the image is smaller than ``size``. It has no length: feed it
    positions with ``PositionSampler``. Items are those of the dataset with ``image`` (3, size, size) and ``position``.

    Args:
        dataset: Where the images come from.
        size: Side of a crop in pixels.
        scale: Range, within (0, 1], of the side of the source region as a share of the image's short side.
        flip: Whether every second crop, on average, is mirrored left to right.
        seed: Of all draws, not negative.
        cache_bytes: Decoded images kept in memory, per process; the least recently used go first.

    Raises:
        DataError: an empty dataset, or arguments out of range.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        size: int,
        scale: tuple[float, float] = (0.25, 1.0),
        flip: bool = True,
        seed: int = 0,
        cache_bytes: int = 1 << 30,
    ) -> None:
        if size < 1 or not 0 < scale[0] <= scale[1] <= 1:
            raise DataError(
                f"size={size}, scale={scale}: crops need a size of at least 1 and a scale range within (0, 1]"
            )
        self.dataset, self.size, self.scale, self.flip, self.seed = (
            dataset,
            size,
            (scale[0], scale[1]),
            flip,
            seed,
        )
        self.order = EpochOrder(len(dataset), seed)
        self._decoded = DecodedImages(dataset, cache_bytes)

    def __getitem__(self, position: int) -> dict[str, Any]:
        index = self.order[position]
        image = self.crop(self._decoded.read(index), position)
        return {
            "image": to_tensor(image),
            "key": self.dataset.keys()[index],
            "position": position,
            **self.dataset.extras(index),
        }

    def crop(self, image: Image.Image, position: int) -> Image.Image:
        """The crop of an image that belongs to a position."""
        # random.Random(int).random() is the one generator that Python promises never to change
        draw = random.Random(self.seed * _SEED_SHIFT + position).random
        share = self.scale[0] + (self.scale[1] - self.scale[0]) * draw()
        short = min(image.size)
        side = min(short, max(self.size, round(short * share)))
        left = int(draw() * (image.width - side + 1))
        top = int(draw() * (image.height - side + 1))
        box = (left, top, left + side, top + side)
        if side == self.size:
            crop = image.crop(box)
        else:
            # reducing_gap averages whole blocks before the filter: several times faster on large regions
            crop = image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box, reducing_gap=1.5)
        if self.flip and draw() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return crop


class Tiles(ImageDataset):
    """The grid of non-overlapping tiles of every image, from the top left; what remains at the edges is left out.

    Keys are the image's key with row and column, such as ``astronaut_r03_c05``. Every image is decoded once at the
    start for its size; images smaller than a tile have none.

    Args:
        dataset: Where the images come from.
        size: Side of a tile in pixels, or (height, width).
        cache_bytes: Decoded images kept in memory, per process.

    Raises:
        DataError: no image is as large as a tile, or a size below 1.
    """

    def __init__(
        self, dataset: ImageDataset, size: int | tuple[int, int], cache_bytes: int = 1 << 30
    ) -> None:
        super().__init__(dataset.policy, 1)
        self.size = (size, size) if isinstance(size, int) else size
        if min(self.size) < 1:
            raise DataError(f"size={size}: tiles are at least 1 pixel wide")
        self.dataset = dataset
        self._decoded = DecodedImages(dataset, cache_bytes)
        self._tiles: list[tuple[int, int, int]] = []
        for index in range(len(dataset)):
            width, height = self._decoded.read(index).size
            rows, columns = height // self.size[0], width // self.size[1]
            self._tiles += [(index, row, column) for row in range(rows) for column in range(columns)]
        if not self._tiles:
            raise DataError(
                f"none of the {len(dataset)} images holds a tile of {self.size[1]} x {self.size[0]} pixels: choose a smaller size"
            )
        keys = dataset.keys()
        self._keys = [f"{keys[index]}_r{row:02d}_c{column:02d}" for index, row, column in self._tiles]

    def keys(self) -> list[str]:
        """Image key, row and column of every tile; row by row within an image."""
        return self._keys

    def source(self, index: int) -> Image.Image:
        """The tile, RGB."""
        image, row, column = self._tiles[index]
        height, width = self.size
        left, top = column * width, row * height
        return self._decoded.read(image).crop((left, top, left + width, top + height))

    def extras(self, index: int) -> dict[str, Any]:
        """Label and caption of the image that the tile is from."""
        return self.dataset.extras(self._tiles[index][0])

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = self._checked(index)
        return {"image": to_tensor(self.source(index)), "key": self._keys[index], **self.extras(index)}


class DecodedImages:
    """Reads images of a dataset, keeping the most recently used in memory; a pickled copy starts empty.

    Args:
        dataset: Where the images come from.
        max_bytes: Limit of what is kept, counted as 3 bytes a pixel; the image just read is always given.
    """

    def __init__(self, dataset: ImageDataset, max_bytes: int) -> None:
        self.dataset, self.max_bytes = dataset, max_bytes
        self._kept: OrderedDict[int, Image.Image] = OrderedDict()
        self._bytes = 0

    def read(self, index: int) -> Image.Image:
        """The image, decoded; not to be written to."""
        image = self._kept.pop(index, None)
        if image is None:
            image = self.dataset.read(index)
            self._bytes += _num_bytes(image)
        self._kept[index] = image
        while self._bytes > self.max_bytes and self._kept:
            self._bytes -= _num_bytes(self._kept.popitem(last=False)[1])
        return image

    def __getstate__(self) -> dict[str, Any]:
        return {"dataset": self.dataset, "max_bytes": self.max_bytes, "_kept": OrderedDict(), "_bytes": 0}


def _num_bytes(image: Image.Image) -> int:
    return 3 * image.width * image.height
