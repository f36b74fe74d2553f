"""The photographs of the demo: packaged ones or a folder of one's own, and the views of them that become tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vistok.data import ImageDataset, Photos, Tiles
from vistok.downstream import views
from vistok.downstream.tokens import SPLITS
from vistok.errors import DataError, ImageError

TILE = 64
MAX_SIDE = 640
MAX_PHOTOS = {"train": 24, "held_out": 6}


@dataclass(frozen=True)
class Sources:
    """Where the photographs are, in the words of ``vistok.data.open_images``, which recipes use too.

    Args:
        train: To learn from.
        held_out: Whole photographs that nothing is learned from.
    """

    train: str = "photos:train"
    held_out: str = "photos:held_out"


def copy_photographs(folder: Path, into: Path) -> tuple[Sources, dict[str, str]]:
    """Copies one's own photographs, at most 640 pixels wide or high and at most 30 of them, split by whole images.

    The demo has minutes: a photograph of 12 million pixels would take all of them. Every fifth image is held out.

    Returns:
        Where the copies are, and the reason for each file that was left out.

    Raises:
        DataError: fewer than 2 images that can be read and hold a tile of 64 pixels.
    """
    check_photographs(folder)
    left_out: dict[str, str] = {}
    for split in SPLITS:
        for key, image in _usable(folder, split, left_out):
            name = key.replace("/", "-")
            while (into / split / f"{name}.png").exists():
                name += "_"
            (into / split).mkdir(parents=True, exist_ok=True)
            _reduced(image).save(into / split / f"{name}.png")
    return Sources(str(into / "train"), str(into / "held_out")), left_out


def check_photographs(folder: Path) -> None:
    """Makes sure that a folder has what ``copy_photographs`` needs, and writes nothing.

    Raises:
        DataError: fewer than 2 images that can be read and hold a tile of 64 pixels.
    """
    for split in SPLITS:
        left_out: dict[str, str] = {}
        if next(_usable(folder, split, left_out), None) is None:
            purpose = "train on" if split == "train" else "hold out"
            key, reason = next(iter(left_out.items()))
            raise DataError(
                f"{folder} has no usable image to {purpose}: {_about(key, reason)}; add photographs"
            )


def _usable(folder: Path, split: str, left_out: dict[str, str]) -> Iterator[tuple[str, Image.Image]]:
    """Key and image of each photograph of a split that can be used; notes the reason for each of the others."""
    photos = Photos(split, folder)
    keys, limit = photos.keys(), MAX_PHOTOS[split]
    chosen = [i * len(keys) // limit for i in range(limit)] if len(keys) > limit else range(len(keys))
    for index in chosen:
        try:
            image = photos.read(index)
        except ImageError as error:
            left_out[keys[index]] = str(error)
            continue
        if min(image.size) < TILE:
            left_out[keys[index]] = f"{image.width} x {image.height} pixels are less than a tile of {TILE}"
            continue
        yield keys[index], image


def _about(key: str, reason: str) -> str:
    return reason if key in reason else f"{key}: {reason}"


def _reduced(image: Image.Image) -> Image.Image:
    """The image, reduced so that no side is above 640 and none below 64."""
    share = max(min(1.0, MAX_SIDE / max(image.size)), TILE / min(image.size))
    if share == 1.0:
        return image
    return image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.LANCZOS)


def tiles(train: ImageDataset, held_out: ImageDataset) -> Tiles:
    """All tiles of 64 x 64 pixels of all views."""
    return views.tiles(train, held_out, (TILE, TILE))
