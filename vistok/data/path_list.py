"""Images that a list names: a text file of paths, or a table of paths with labels and captions."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from vistok.data.fields import Fields, duplicate, integer_or_text, present
from vistok.data.folder import ImageFiles
from vistok.errors import DataError
from vistok.spec import ImagePolicy

LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl")
PATH_COLUMNS = ("path", "file", "file_name", "filename", "image")
MAX_CELL_CHARS = 1 << 23


class PathList(ImageFiles):
    """Images at the paths that a file lists; a key is the path as it is written there.

    ``.txt`` has one path a line. ``.csv`` and ``.tsv`` have a header, ``.jsonl`` an object a line; the path stands in the
    column ``path``, ``file``, ``file_name``, ``filename`` or ``image``, label and caption in ``label``, ``cls``,
    ``caption``, ``text`` or ``txt``. Paths are relative to the folder of the list. Cells of ``.csv`` and ``.tsv`` stay text,
    but for labels that are written as integers; empty ones count as missing.

    Args:
        path: The list, UTF-8.
        policy: How images become tensors.
        multiple_of: What both sides are divisible by.
        fields: Other columns, for the path, the key, the label, the caption and more.

    Raises:
        DataError: a list that is missing, empty or cannot be read; a row without a path; a key that occurs twice.
    """

    def __init__(
        self,
        path: str | Path,
        policy: ImagePolicy | None = None,
        multiple_of: int = 1,
        fields: Fields | None = None,
    ) -> None:
        self.list = Path(path)
        asked = fields or Fields()
        paths: list[str] = []
        line_of: dict[str, int] = {}
        self._extras: list[dict[str, Any]] = []
        for line, file, key, extras in _rows(self.list, asked):
            if not isinstance(file, str) or not file:
                raise DataError(f"{str(path)!r} line {line} names no image: fill in its path, or remove it")
            key = file if key is None else str(key)
            if key in line_of:
                raise duplicate(
                    key,
                    f"line {line_of[key]} of {str(path)!r}",
                    f"line {line}",
                    "remove one, or choose a column of keys with fields key=COLUMN",
                )
            line_of[key] = line
            paths.append(file)
            self._extras.append(extras)
        if not paths:
            raise DataError(f"{str(path)!r} lists no images: write one path a line")
        if "://" in paths[0]:
            raise DataError(
                f"{str(path)!r} lists addresses such as {paths[0]!r}: download the images first, vistok fetches nothing"
            )
        super().__init__(paths, list(line_of), policy, multiple_of)
        self.fields = asked

    def source(self, index: int) -> Path:
        """The path of an image."""
        return self.list.parent / self._paths[index]

    def extras(self, index: int) -> dict[str, Any]:
        """Label, caption and chosen fields, where the list has them."""
        return self._extras[index]


def _rows(path: Path, fields: Fields) -> Iterator[tuple[int, Any, Any, dict[str, Any]]]:
    """Line, path, key and fields of each row."""
    name = repr(str(path))
    try:
        # newline="": line ends inside quoted cells are the csv reader's business
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.name.lower().endswith(".txt"):
                fields.check(("path",), f"{name}, a list of paths,")
                lines = (line.rstrip("\r\n") for line in file)
                yield from ((number, line, None, {}) for number, line in enumerate(lines, 1) if line)
                return
            is_json = path.name.lower().endswith(".jsonl")
            for place, (line, row) in enumerate(_json_rows(file, name) if is_json else _csv_rows(file, path)):
                if place == 0:
                    # objects of .jsonl may differ, so only the first has to have what was asked for
                    fields.check(row, name)
                image = fields.image or next((column for column in PATH_COLUMNS if column in row), None)
                if image is None:
                    raise DataError(
                        f"{name} line {line} has no column of paths: call one path, or choose it with fields image=COLUMN; "
                        f"there is {', '.join(row)}"
                    )
                key = None if fields.key is None else row.get(fields.key)
                if fields.key is not None and key in (None, ""):
                    raise DataError(f"{name} line {line} has no key in column {fields.key!r}: fill it in")
                columns = replace(fields, image=image).columns(row)
                values = {field: row.get(column) for field, column in columns.items()}
                yield line, row.get(image), key, present(values) if is_json else _texts(values)
    except OSError as error:
        raise DataError(f"list {name} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"list {name} is not UTF-8: convert it ({error.reason} at byte {error.start})"
        ) from error


def _texts(values: dict[str, Any]) -> dict[str, Any]:
    filled = {field: value for field, value in values.items() if value}
    return {field: integer_or_text(value) if field == "label" else value for field, value in filled.items()}


def _csv_rows(file: Any, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(MAX_CELL_CHARS)
    dialect: dict[str, Any] = {"delimiter": "\t"} if path.name.lower().endswith(".tsv") else {}
    reader = csv.reader(file, strict=True, **dialect)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            twice = next(name for place, name in enumerate(header) if name in header[:place])
            raise DataError(f"{str(path)!r} has two columns {twice!r}: rename one of them")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{str(path)!r} line {reader.line_num} has {len(cells)} cells, its header has {len(header)}: "
                    "quote cells that hold the separator"
                )
            yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{str(path)!r} line {reader.line_num} cannot be read as a table: {error}; mend its quotes"
        ) from error


def _json_rows(file: Any, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name} line {number} is not JSON: {' '.join(str(error).split())}") from error
        if not isinstance(row, dict):
            raise DataError(f"{name} line {number} is not an object: write one {{...}} a line")
        yield number, row
