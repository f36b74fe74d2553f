"""From what a user names on the command line to a dataset."""

from __future__ import annotations

import os
from pathlib import Path

from vistok.data.base import ImageDataset
from vistok.data.fields import Fields
from vistok.data.folder import ImageFiles, ImageFolder, list_images
from vistok.data.path_list import LIST_SUFFIXES, PathList
from vistok.data.photos import Photos
from vistok.data.pipes import PREFIX
from vistok.data.procedural import Procedural
from vistok.data.table_files import TABLE_SUFFIXES, is_saved_dataset
from vistok.data.tables import TableImages
from vistok.data.tars import WebDatasetImages, expand_shards
from vistok.errors import DataError
from vistok.spec import ImagePolicy
from vistok.tokenizer.images import SUFFIXES

_CHOICES = (
    "photos, photos:train, photos:held_out, procedural:100, procedural:100:256, an image, a folder, shards such as "
    "'train-{00..31}.tar', Parquet or Arrow files, a dataset of save_to_disk, or a list of paths (.txt .csv .tsv .jsonl)"
)


def open_images(
    what: str | Path,
    policy: ImagePolicy | None = None,
    multiple_of: int = 1,
    fields: Fields | None = None,
    allow_pipes: bool = False,
    prefix_keys: bool = False,
) -> ImageDataset:
    """Opens images by name: packaged photos, procedural images, an image, a folder, shards, tables, a list of paths.

    Args:
        what: ``photos`` (all), ``photos:train``, ``photos:held_out``; ``procedural:NUM`` or ``procedural:NUM:SIZE``; the
            path of an image, of a tar, of a Parquet or Arrow file, of a list of paths, or of a folder of images, of tars
            or of tables; a brace list of tars or tables; ``pipe:COMMAND``, whose output is a tar.
        policy: How images become tensors.
        multiple_of: What both sides are divisible by.
        fields: Which columns the items have beside image, key, label and caption.
        allow_pipes: Whether commands may be run.
        prefix_keys: Whether keys of images in tars begin with the tar's name.

    Raises:
        DataError: nothing of that name, nothing in it, fields that it does not have, or ``prefix_keys`` without tars.
    """
    dataset = _opened(str(what), policy, multiple_of, fields or Fields(), allow_pipes, prefix_keys)
    if prefix_keys and not isinstance(dataset, WebDatasetImages):
        raise DataError(
            f"{str(what)!r} holds no tars, whose names keys could begin with: leave out --prefix-keys"
        )
    return dataset


def _opened(
    text: str,
    policy: ImagePolicy | None,
    multiple_of: int,
    fields: Fields,
    allow_pipes: bool,
    prefix_keys: bool,
) -> ImageDataset:
    path = Path(text)
    kind, _, rest = text.partition(":")
    if kind in ("photos", "procedural") and not path.exists():
        fields.check((), repr(text))
        if kind == "photos":
            return Photos(rest or "all", policy=policy, multiple_of=multiple_of)
        return _procedural(text, policy, multiple_of)
    if text.endswith(TABLE_SUFFIXES) and not text.startswith(PREFIX):
        files = [text] if path.exists() else expand_shards(text)
        return TableImages(files, policy, multiple_of, fields)
    if (
        text.startswith(PREFIX)
        or "://" in text
        or text.endswith(".tar")
        or ("{" in text and not path.exists())
    ):
        return WebDatasetImages(
            text, policy, multiple_of, prefix_keys=prefix_keys, fields=fields, allow_pipes=allow_pipes
        )
    if path.is_dir():
        return _folder(path, policy, multiple_of, fields, prefix_keys)
    if path.is_file():
        if path.name.lower().endswith(LIST_SUFFIXES):
            return PathList(path, policy, multiple_of, fields)
        if path.name.lower().endswith(SUFFIXES):
            fields.check((), repr(text))
            return ImageFiles([path], policy=policy, multiple_of=multiple_of)
        raise DataError(
            f"{text!r} is neither an image, a tar, a table nor a list by its name: give {_CHOICES}"
        )
    raise DataError(f"there are no images {text!r}: give {_CHOICES}")


def _folder(
    path: Path, policy: ImagePolicy | None, multiple_of: int, fields: Fields, prefix_keys: bool
) -> ImageDataset:
    """A folder of images, of tars, or of tables."""
    if is_saved_dataset(path):
        return TableImages(path, policy, multiple_of, fields)
    has_tars = any(path.glob("*.tar"))
    has_tables = not has_tars and _has_tables(path)
    if (has_tars or has_tables) and list_images(path):
        kind = "tars" if has_tars else "tables"
        example = str(path / ("{...}.tar" if has_tars else "FILE.parquet"))
        raise DataError(
            f"{str(path)!r} holds both {kind} and images: give the {kind} as {example!r}, or a folder of one kind"
        )
    if has_tars:
        return WebDatasetImages(path, policy, multiple_of, prefix_keys=prefix_keys, fields=fields)
    if has_tables:
        return TableImages(path, policy, multiple_of, fields)
    return ImageFolder(path, policy=policy, multiple_of=multiple_of, fields=fields)


def _has_tables(folder: Path) -> bool:
    for _, subfolders, files in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        if any(name.endswith(TABLE_SUFFIXES) and not name.startswith(".") for name in files):
            return True
    return False


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
