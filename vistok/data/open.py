"""From what a user names on the command line to a dataset."""

from __future__ import annotations

from pathlib import Path

from vistok.data.base import ImageDataset
from vistok.data.folder import ImageFiles, ImageFolder, list_images
from vistok.data.photos import Photos
from vistok.data.procedural import Procedural
from vistok.data.tars import WebDatasetImages
from vistok.errors import DataError
from vistok.spec import ImagePolicy
from vistok.tokenizer.images import SUFFIXES

_CHOICES = "photos, photos:train, photos:held_out, procedural:100, procedural:100:256, an image, a folder, or shards such as 'train-{00..31}.tar'"


def open_images(what: str | Path, policy: ImagePolicy | None = None, multiple_of: int = 1) -> ImageDataset:
    """Opens images by name: packaged photos, procedural images, an image, a folder of images or of tars, or shards.

    Args:
        what: ``photos`` (all), ``photos:train``, ``photos:held_out``; ``procedural:NUM`` or ``procedural:NUM:SIZE``; the
            path of an image, of a folder, of a tar; or a brace list of tars.
        policy: How images become tensors.
        multiple_of: What both sides are divisible by.

    Raises:
        DataError: nothing of that name, or nothing in it.
    """
    text = str(what)
    path = Path(text)
    kind, _, rest = text.partition(":")
    if kind == "photos" and not path.exists():
        return Photos(rest or "all", policy=policy, multiple_of=multiple_of)
    if kind == "procedural" and not path.exists():
        return _procedural(text, policy, multiple_of)
    if (
        text.startswith("pipe:")
        or "://" in text
        or text.endswith(".tar")
        or ("{" in text and not path.exists())
    ):
        return WebDatasetImages(text, policy, multiple_of)
    if path.is_dir():
        has_tars = any(path.glob("*.tar"))
        if has_tars and list_images(path):
            raise DataError(
                f"{text!r} holds both tars and images: give the tars as {str(path / '{...}.tar')!r}, or a folder of one kind"
            )
        return (
            WebDatasetImages(text, policy, multiple_of)
            if has_tars
            else ImageFolder(path, policy=policy, multiple_of=multiple_of)
        )
    if path.is_file():
        if path.name.lower().endswith(SUFFIXES):
            return ImageFiles([path], policy=policy, multiple_of=multiple_of)
        raise DataError(f"{text!r} is neither an image nor a tar by its name: give {_CHOICES}")
    raise DataError(f"there are no images {text!r}: give {_CHOICES}")


def _procedural(text: str, policy: ImagePolicy | None, multiple_of: int) -> Procedural:
    numbers = text.split(":")[1:]
    if len(numbers) not in (1, 2) or not all(number.isascii() and number.isdigit() for number in numbers):
        raise DataError(
            f"{text!r} does not say how many images: write procedural:100, or procedural:100:256 for their side"
        )
    size: int | tuple[int, int] = 64
    if policy is not None and policy.size is not None:
        size = (policy.size[0], policy.size[1])
    if len(numbers) == 2:
        size = int(numbers[1])
    return Procedural(int(numbers[0]), size, policy=policy, multiple_of=multiple_of)
