"""Images in Parquet or Arrow files: tables with a column of encoded images, as Hugging Face's datasets writes them."""

from __future__ import annotations

import datetime
import decimal
import math
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

from vistok.data.arrow_rows import ArrowRows
from vistok.data.base import ImageDataset
from vistok.data.fields import Fields, duplicate, present
from vistok.data.parquet_rows import ParquetRows
from vistok.data.table_files import image_column, table_files
from vistok.errors import DataError, ImageError
from vistok.spec import ImagePolicy


class TableImages(ImageDataset):
    """Images in a column of Parquet or Arrow files, read row by row within bounded memory.

    The column holds encoded images as bytes, or structs of ``bytes`` and ``path``; where ``bytes`` is null the path is
    opened, relative to the file's folder. Arrow files are mapped, any row costs the same; Parquet is fastest in order.
    A key is the file's path below the folder without suffix, and the number of the row: ``train-00000/000000041``.
    Labels are found in columns ``label`` or ``cls``, captions in ``caption``, ``text`` or ``txt``.

    Args:
        files: A file, a folder of them, or a list of files; or a folder that ``datasets.save_to_disk`` wrote.
        policy: How images become tensors.
        multiple_of: What both sides are divisible by.
        fields: Columns for the image, the key, the label, the caption and more. Shards hold images in the order of their
            keys, so a key column that is not sorted makes Parquet slow.

    Raises:
        DataError: files that are missing, damaged, truncated, empty, or differ in their columns; no column of images, or
            several; a chosen column that is there twice; keys that are missing or occur twice.
    """

    def __init__(
        self,
        files: str | Path | Sequence[str | Path],
        policy: ImagePolicy | None = None,
        multiple_of: int = 1,
        fields: Fields | None = None,
    ) -> None:
        super().__init__(policy, multiple_of)
        names = _named(files)
        self._files = [_opened(path) for _, path in names]
        where = repr(str(names[0][1]))
        schema = self._files[0].schema
        self.fields = fields or Fields()
        self.fields.check(schema.names, where)
        _check_single(schema, self.fields, where)
        self._image = image_column(schema, self.fields.image, where)
        self._columns = _field_columns(schema, replace(self.fields, image=self._image), where)
        for file in self._files:
            needed = {self._image, *self._columns.values()}
            _check_alike(schema, file, needed | {self.fields.key or self._image}, where)
            file.columns = tuple(sorted(needed))
        self._starts = [0, *accumulate(file.num_rows for file in self._files)]
        if not self._starts[-1]:
            raise DataError(
                f"{where} and the other files ({len(names)} in all) have no rows: give a table with images"
            )
        self._keys = self._keys_of([name for name, _ in names])

    def _keys_of(self, names: list[str]) -> list[str]:
        if self.fields.key is None:
            return [
                f"{name}/{row:09d}"
                for name, file in zip(names, self._files, strict=True)
                for row in range(file.num_rows)
            ]
        column = self.fields.key
        origin: dict[str, str] = {}
        for file in self._files:
            for row, value in enumerate(file.column(column)):
                here = f"row {row} of {str(file.path)!r}"
                if type(value) not in (str, int):
                    told = "nothing" if value is None else f"a {type(value).__name__}"
                    raise DataError(
                        f"{here} has {told} in the key column {column!r}: choose a column of texts or integers"
                    )
                if str(value) in origin:
                    raise duplicate(
                        str(value),
                        origin[str(value)],
                        here,
                        "choose another key column, or none to count rows",
                    )
                origin[str(value)] = here
        return list(origin)

    def keys(self) -> list[str]:
        """The keys, file by file."""
        return self._keys

    def source(self, index: int) -> bytes | Path:
        """The encoded image, or its path.

        Raises:
            ImageError: the row has none.
            DataError: the file is damaged, or has changed.
        """
        place, row = self._place(index)
        value = self._files[place].read(row, [self._image])[self._image]
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if data is not None:
            return bytes(data)
        if path:
            return self._files[place].path.parent / str(path)
        raise ImageError(
            f"{self._keys[index]} has no image, its row is empty: fill it in, or leave such rows out"
        )

    def extras(self, index: int) -> dict[str, Any]:
        """Label, caption and chosen fields, where the row has them."""
        if not self._columns:
            return {}
        place, row = self._place(index)
        values = self._files[place].read(row, sorted(set(self._columns.values())))
        return present({name: _plain(values[column]) for name, column in self._columns.items()})

    def _place(self, index: int) -> tuple[int, int]:
        place = bisect_right(self._starts, index) - 1
        return place, index - self._starts[place]


def _check_single(schema: Any, fields: Fields, where: str) -> None:
    wanted = {fields.image, fields.key, *fields.columns(schema.names).values()}
    twice = next(
        (name for name, count in Counter(schema.names).items() if count > 1 and name in wanted), None
    )
    if twice is not None:
        raise DataError(f"{where} has several columns {twice!r}: rename all but one of them")


def _field_columns(schema: Any, fields: Fields, where: str) -> dict[str, str]:
    """Column by field; those that were found and not chosen are left out where JSON cannot hold them."""
    found = {}
    for name, column in fields.columns(schema.names).items():
        if _holds_bytes(schema.field(column).type):
            if name in fields.chosen:
                raise DataError(
                    f"column {column!r} of {where} holds bytes, which a field cannot: leave it out of the fields"
                )
            continue
        found[name] = column
    return found


def _check_alike(schema: Any, file: ArrowRows | ParquetRows, columns: set[str], where: str) -> None:
    for column in sorted(columns):
        if column not in file.schema.names or file.schema.field(column).type != schema.field(column).type:
            raise DataError(
                f"{str(file.path)!r} and {where} differ in column {column!r}: give files of one table"
            )


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    if any(check(kind) for check in (types.is_binary, types.is_large_binary, types.is_fixed_size_binary)):
        return True
    return any(_holds_bytes(kind.field(place).type) for place in range(kind.num_fields))


def _plain(value: Any) -> Any:
    """A value that JSON has: times and decimals as text, numbers that are none as missing."""
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal)):
        return str(value)
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _named(files: str | Path | Sequence[str | Path]) -> list[tuple[str, Path]]:
    """Path of each file, and what keys call it: where it lies below the folder that holds all, without its suffix."""
    if isinstance(files, (str, Path)):
        folder = Path(files)
        if folder.is_dir():
            return [(str(PurePosixPath(name).with_suffix("")), folder / name) for name in table_files(folder)]
        files = [files]
    paths = [Path(file) for file in files]
    if not paths:
        raise DataError("there are no tables in the list: give at least one")
    top = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    names = [path.absolute().relative_to(top).with_suffix("").as_posix() for path in paths]
    twice = next((path for path, count in Counter(paths).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"table {str(twice)!r} is listed twice: leave one out")
    return list(zip(names, paths, strict=True))


def _opened(path: Path) -> ArrowRows | ParquetRows:
    if path.is_dir():
        raise DataError(f"{str(path)!r} is a folder: give one folder, or files")
    file = ParquetRows(path) if path.suffix == ".parquet" else ArrowRows(path)
    # a row of an image takes more than a byte; a file that says otherwise would fill the memory with keys
    if file.num_rows > file.stamp[0]:
        raise DataError(
            f"{str(path)!r} says that it has {file.num_rows} rows in {file.stamp[0]} bytes: fetch it again"
        )
    return file
