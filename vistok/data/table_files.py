"""Which files make a table, and which of its columns is the image."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vistok.errors import DataError

TABLE_SUFFIXES = (".parquet", ".arrow")
SAVED_DATASET = "state.json"
SAVED_SPLITS = "dataset_dict.json"


def is_saved_dataset(folder: Path) -> bool:
    """Whether Hugging Face's ``save_to_disk`` wrote a folder."""
    return (folder / SAVED_DATASET).is_file() or (folder / SAVED_SPLITS).is_file()


def table_files(folder: Path) -> list[str]:
    """The files of a table below a folder, as relative paths with slashes: those of ``save_to_disk`` in their order, else
    all Parquet files, or all Arrow files, sorted.

    Raises:
        DataError: nothing there, both kinds, or several splits.
    """
    name = repr(str(folder))
    if (folder / SAVED_SPLITS).is_file():
        splits = sorted(path.parent.name for path in folder.glob(f"*/{SAVED_DATASET}"))
        example = repr(str(folder / (splits or ["train"])[0]))
        raise DataError(f"{name} holds the splits {', '.join(splits)}: give one of them, such as {example}")
    if (folder / SAVED_DATASET).is_file():
        return _saved_files(folder)
    found: list[str] = []
    for place, subfolders, files in os.walk(folder):
        subfolders[:] = [sub for sub in subfolders if not sub.startswith(".")]
        inside = Path(place).relative_to(folder)
        found += [
            (inside / file).as_posix()
            for file in files
            if file.endswith(TABLE_SUFFIXES) and not file.startswith(".")
        ]
    if not found:
        raise DataError(f"{name} has no *.parquet or *.arrow: give a folder of one kind, or their paths")
    if len({Path(file).suffix for file in found}) > 1:
        raise DataError(f"{name} holds both *.parquet and *.arrow: give the files of one kind")
    return sorted(found)


def _saved_files(folder: Path) -> list[str]:
    path = folder / SAVED_DATASET
    try:
        state = json.loads(path.read_bytes())
        files = [str(entry["filename"]) for entry in state["_data_files"]]
        picked = state.get("_indices_data_files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{str(path)!r} is damaged ({type(error).__name__}): save the dataset again with save_to_disk"
        ) from error
    if picked:
        raise DataError(
            f"{str(folder)!r} is a selection of rows, of an old form: save it again with a newer datasets"
        )
    if any("/" in file or file in ("", ".", "..") for file in files):
        raise DataError(
            f"{str(path)!r} names files outside its folder: save the dataset again with save_to_disk"
        )
    if not files:
        raise DataError(f"{str(folder)!r} is an empty dataset: save one with images")
    return files


def image_column(schema: Any, wanted: str | None, where: str) -> str:
    """The column that holds images: of Hugging Face's type Image, else structs with ``bytes``, else binary.

    Raises:
        DataError: none, several, or the one that is wanted does not hold images.
    """
    ranked = [(rank, column.name) for column in schema if (rank := _rank(column, schema)) is not None]
    names: list[str] = [name for rank, name in ranked if rank == min(ranked)[0]]
    if wanted is not None:
        if wanted not in [name for _, name in ranked]:
            raise DataError(
                f"column {wanted!r} of {where} does not hold images: they are bytes, or structs with bytes; "
                f"choose among {', '.join(name for _, name in ranked) or 'none'}"
            )
        return wanted
    if len(names) == 1:
        return names[0]
    if names:
        raise DataError(
            f"{where} has several columns that may hold images ({', '.join(names)}): say which with --fields image={names[0]}"
        )
    raise DataError(
        f"{where} has no column of images, its columns are {', '.join(schema.names)}: give a table with images as bytes"
    )


def _rank(column: Any, schema: Any) -> int | None:
    from pyarrow import types

    if types.is_struct(column.type):
        inner = {part.name: part.type for part in column.type}
        if "bytes" not in inner or not _is_bytes(inner["bytes"]):
            return None
        return 0 if column.name in _features(schema) else 1
    return 2 if _is_bytes(column.type) else None


def _is_bytes(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _features(schema: Any) -> Sequence[str]:
    """Names of the columns that Hugging Face's datasets calls images."""
    try:
        told = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [name for name, feature in told.items() if feature.get("_type") == "Image"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
