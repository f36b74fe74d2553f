"""Parquet tables, for pyarrow, polars, DuckDB, ``datasets`` and Spark."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from vistok.errors import ShardError
from vistok.shards.exports.base import ExportFormat
from vistok.shards.exports.numbering import TokenNumbering
from vistok.shards.exports.source import ExportSample, Source, as_text
from vistok.spec import StreamSpec, index_dtype

GROUP_BYTES = 32 << 20


@dataclass(frozen=True)
class Parquet(ExportFormat):
    """``tokens-00000.parquet``, one row a sample, columns ``key, label, caption, height, width, fields`` and the tokens.

    ``indices`` is a list of N * S integers of the smallest unsigned type, position by position, or ``latents`` a list of
    N * D floats; ``shape`` says [N, S] or [N, D], ``grid`` the token grid. With several streams these three have the name of
    their stream in front: ``pixel_indices``. ``label`` and ``caption`` are null where there is none; ``fields`` is JSON.
    A key or caption that is not UTF-8 has escapes in its column, and is in ``fields`` as it is.

    Args:
        tokens: Ids; special tokens have no place, and no order is needed.
        default_label: Class of samples that have none; None leaves them null.
        samples_per_file: The last file may have fewer.
    """

    name: ClassVar[str] = "parquet"
    kind: ClassVar[Literal["discrete", "continuous", "any"]] = "any"
    packages: ClassVar[Mapping[str, str]] = {"pyarrow": "pyarrow"}
    many_streams: ClassVar[bool] = True
    tokens: TokenNumbering = field(default_factory=TokenNumbering)
    default_label: int | None = None
    samples_per_file: int = 100_000

    def check(self, source: Source) -> None:
        """Refuses special tokens, and ids where there are none or several streams."""
        if self.samples_per_file < 1:
            raise ShardError(f"--samples-per-file must be at least 1, it is {self.samples_per_file}")
        check_numbering(self.tokens, source, self.name)
        for stream in source.streams:
            if stream.codebook_size is not None:
                self.tokens.check(stream, self.name, specials=False, flat=False)

    def write(self, source: Source, folder: Path) -> tuple[str, ...]:
        """Writes file by file, holding about 32 MB of samples."""
        import pyarrow.parquet

        schema = self._schema(source)
        samples = iter(source)
        for number in range(-(-len(source) // self.samples_per_file)):
            path = folder / f"tokens-{number:05d}.parquet"
            with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
                for rows in _row_groups(islice(samples, self.samples_per_file)):
                    writer.write_table(self._table(rows, source, schema), row_group_size=len(rows))
        return ()

    def _schema(self, source: Source) -> Any:
        import pyarrow as pa

        fields = [("key", pa.string()), ("label", pa.int64()), ("caption", pa.string())]
        fields += [("height", pa.int32()), ("width", pa.int32()), ("fields", pa.string())]
        for stream in source.streams:
            prefix = _prefix(stream, source)
            fields += [
                (prefix + _tokens_name(stream), pa.list_(pa.from_numpy_dtype(self._dtype(stream)))),
                (prefix + "shape", pa.list_(pa.int32())),
                (prefix + "grid", pa.list_(pa.int32())),
            ]
        return pa.schema(fields, metadata={"vistok": source.dataset.fingerprint.sha256})

    def _table(self, rows: list[ExportSample], source: Source, schema: Any) -> Any:
        import pyarrow as pa

        texts = [as_text(row) for row in rows]
        columns: dict[str, Any] = {
            "key": [key for key, _, _ in texts],
            "label": [self.default_label if row.label is None else row.label for row in rows],
            "caption": [caption for _, caption, _ in texts],
            "height": [row.size[0] for row in rows],
            "width": [row.size[1] for row in rows],
            "fields": [json.dumps(fields, sort_keys=True) for _, _, fields in texts],
        }
        for stream in source.streams:
            prefix, arrays = _prefix(stream, source), [row.arrays[stream.name] for row in rows]
            columns[prefix + _tokens_name(stream)] = _lists(
                [self._flat(a) for a in arrays], self._dtype(stream)
            )
            columns[prefix + "shape"] = [list(array.shape) for array in arrays]
            columns[prefix + "grid"] = [list(row.grids[stream.name]) for row in rows]
        return pa.table(columns, schema=schema)

    def _flat(self, array: NDArray[Any]) -> NDArray[Any]:
        return (self.tokens.ids(array) if array.dtype.kind == "i" else array).reshape(-1)

    def _dtype(self, stream: StreamSpec) -> np.dtype[Any]:
        if stream.codebook_size is None:
            return np.dtype("float32")
        return np.dtype(index_dtype(self.tokens.check(stream, self.name, specials=False, flat=False)))


def check_numbering(tokens: TokenNumbering, source: Source, format_name: str) -> None:
    """Makes sure that ids were asked for where there are ids.

    Raises:
        ShardError: latents have none, or several streams would have the same.
    """
    if tokens == TokenNumbering():
        return
    if source.stream.codebook_size is None:
        raise ShardError(
            f"the shards are continuous: {format_name} has no use for ids, offsets and special tokens there"
        )
    if len(source.streams) > 1:
        raise ShardError(
            f"{format_name} takes ids and offsets for one stream: give --stream, one export a stream"
        )


def _row_groups(samples: Iterator[ExportSample]) -> Iterator[list[ExportSample]]:
    rows: list[ExportSample] = []
    size = 0
    for sample in samples:
        rows.append(sample)
        size += sum(array.nbytes for array in sample.arrays.values())
        if size >= GROUP_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _lists(arrays: list[NDArray[Any]], dtype: np.dtype[Any]) -> Any:
    import pyarrow as pa

    ends = np.cumsum([0, *(len(array) for array in arrays)])
    return pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()), pa.array(np.concatenate(arrays).astype(dtype))
    )


def _prefix(stream: StreamSpec, source: Source) -> str:
    return f"{stream.name}_" if len(source.streams) > 1 else ""


def _tokens_name(stream: StreamSpec) -> str:
    return "latents" if stream.codebook_size is None else "indices"
