"""The tokens of one stream as Arrow columns, and back: fixed or variable lists, packed bits, halves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vistok.errors import ShardError
from vistok.shards.arrow_columns import Column
from vistok.shards.arrow_schema import RunColumns
from vistok.shards.bit_packing import bits_for, pack, packed_bytes, unpack
from vistok.shards.container import Sample
from vistok.spec import StreamSpec, index_dtype

MAX_ITEMS = (1 << 31) - 1
DTYPES = frozenset(("uint8", "uint16", "uint32", "uint64", "float16", "float32", "bfloat16"))


@dataclass(frozen=True)
class StreamColumns:
    """The tokens of a stream, ready to be written.

    Args:
        name: Of the stream.
        columns: ``pyarrow`` arrays by name: the tokens and, where they vary, ``NAME.length`` and ``NAME.grid``.
        described: For the schema's metadata: ``dtype``, ``bits`` of a packed index (0: not packed), ``shape`` (N, S) with
            None for an N that varies, ``grid`` or None where it varies. ``bfloat16`` lies in uint16.
    """

    name: str
    columns: dict[str, Any]
    described: dict[str, Any]

    @classmethod
    def of(
        cls,
        samples: Sequence[Sample],
        stream: StreamSpec,
        packed: bool,
        latents: str,
        columns: RunColumns | None = None,
    ) -> StreamColumns:
        """The columns of a stream of a shard's samples; of the kinds that ``columns`` of the run say, if it is given.

        Raises:
            ShardError: the samples do not have the stream in one type and width, are too large, or differ although all of
                the run are of one size.
        """
        import pyarrow as pa

        name, size = stream.name, stream.codebook_size
        arrays = [_array_of(sample, name) for sample in samples]
        dtype = latents if size is None else index_dtype(size)
        stored = "float32" if dtype == "bfloat16" else dtype
        widths = {array.shape[1] for array in arrays} or {
            stream.num_groups if size is not None else stream.dim
        }
        if len(widths) > 1 or any(array.dtype != stored for array in arrays):
            raise ShardError(f"samples of stream {name} differ in type or width, or are not {stored}")
        width = widths.pop()
        lengths = [len(array) for array in arrays]
        grids = [list(sample.meta["grid"][name]) for sample in samples]
        same = bool(grids) and all(grid == grids[0] for grid in grids)
        fixed = len(set(lengths)) == 1 and lengths[0] * width > 0
        if columns is not None:
            if columns.size is None or stream.topology == "ragged":
                fixed = same = False
            elif samples and not (fixed and same):
                raise ShardError(
                    f"samples of stream {name} have several lengths or grids, although all images are of one size"
                )
        told = columns.tokens(stream) if columns is not None and not samples else None
        if told is not None:  # a shard without samples has the columns of the others
            grid, count, width = told
            fixed, same, grids, lengths = True, True, [grid], [count]
            arrays = [np.empty((count, width), stored)]
        bits = bits_for(size) if packed and size is not None else 0
        rows = _rows(arrays, bits, dtype)
        if told is not None:
            rows = [rows[0][:0]]
        found = {name: _lists(rows, fixed, name, np.dtype(_lies_in(dtype, bits)))}
        if bits and not fixed:
            found[f"{name}.length"] = pa.array(lengths, pa.int32())
        if not same:
            found[f"{name}.grid"] = pa.array(grids, pa.list_(pa.field("item", pa.int32(), nullable=False)))
        described = {
            "dtype": dtype,
            "bits": bits,
            "shape": [lengths[0] if fixed else None, width],
            "grid": grids[0] if same else None,
        }
        return cls(name, found, described)


class StreamReader:
    """Takes tokens of a stream out of the columns of a shard, without a copy of any other.

    Args:
        name: Of the stream.
        described: What the schema's metadata says of it; its ``grid`` stays to be read.
        columns: All columns by name; those of the stream are removed.

    Raises:
        ShardError: the columns are not what the metadata says.
    """

    def __init__(self, name: str, described: Mapping[str, Any], columns: dict[str, Any]) -> None:
        import pyarrow as pa

        self._dtype, self._bits = str(described["dtype"]), int(described["bits"])
        count, width = described["shape"]
        self._count, self._width = None if count is None else int(count), int(width)
        column = columns.pop(name)
        grid = described["grid"]
        self.grid: list[int] | None = None if grid is None else [int(side) for side in grid]
        self._grids = Column(columns.pop(f"{name}.grid")) if grid is None else None
        packable = 0 < self._bits <= 64 and self._dtype == index_dtype(1 << self._bits)
        if self._dtype not in DTYPES or not (packable or self._bits == 0) or self._width < 0:
            raise ShardError(f"the tokens of stream {name} are of a type that shards do not hold")
        lies_in = pa.from_numpy_dtype(np.dtype(_lies_in(self._dtype, self._bits)))
        if column.type.value_type != lies_in or column.null_count or column.values.null_count:
            raise ShardError(f"the tokens of stream {name} are not what their metadata says")
        self._values: NDArray[Any] = column.values.to_numpy(zero_copy_only=True)
        self._offsets: NDArray[Any] | None = None
        self._lengths: Column | None = None
        if self._count is not None:
            per_row = self._count * self._width
            per_row = packed_bytes(per_row, self._bits) if self._bits else per_row
            self._values = self._values.reshape(len(column), per_row)
            return
        self._offsets = column.offsets.to_numpy(zero_copy_only=True)
        if self._bits:
            self._lengths = Column(columns.pop(f"{name}.length"))
        self._check_lengths(name)

    def take(self, positions: NDArray[np.int64]) -> NDArray[Any] | list[NDArray[Any]]:
        """Tokens at some positions: (B, N, S) where N is the same for all of them, else a list of (N, S)."""
        if self._count is not None:
            rows = self._decoded(self._values[positions], self._count * self._width)
            return rows.reshape(len(positions), self._count, self._width)
        assert self._offsets is not None
        starts, stops = self._offsets[positions], self._offsets[positions + 1]
        sizes = stops - starts
        lengths = (
            self._lengths.take(positions)
            if self._lengths is not None
            else (sizes // max(self._width, 1)).tolist()
        )
        if lengths and len(set(lengths)) == 1 and lengths[0]:
            rows = self._values[starts[:, None] + np.arange(sizes[0])]
            return self._decoded(rows, lengths[0] * self._width).reshape(len(positions), -1, self._width)
        found = []
        for start, stop, length in zip(starts.tolist(), stops.tolist(), lengths, strict=True):
            row = self._decoded(self._values[None, start:stop], length * self._width)
            found.append(row.reshape(-1, self._width))
        return found

    def grids(self, positions: NDArray[np.int64]) -> list[list[int]]:
        """The token grid of each sample."""
        if self._grids is not None:
            return self._grids.take(positions)
        assert self.grid is not None
        return [self.grid] * len(positions)

    def _decoded(self, rows: NDArray[Any], count: int) -> NDArray[Any]:
        if self._bits:
            return unpack(rows, self._bits, count, self._dtype)
        return from_bfloat16(rows) if self._dtype == "bfloat16" else rows

    def _check_lengths(self, name: str) -> None:
        assert self._offsets is not None
        sizes = np.diff(self._offsets).astype(np.int64)
        if self._lengths is not None:
            lengths = np.array(self._lengths.take(np.arange(len(sizes))), dtype=np.int64)
            wrong = (lengths < 0) | (-(-lengths * self._width * self._bits // 8) != sizes)
        else:
            wrong = sizes % max(self._width, 1) != 0
        if wrong.any():
            raise ShardError(
                f"the tokens of stream {name} have lengths that are not what their metadata says"
            )


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves of float32 numbers, rounded to the nearest, ties to even; too large ones are Inf, NaN stays NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    # the bits of a NaN may be all ones: what is added would make a zero of them
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def from_bfloat16(halves: NDArray[np.uint16]) -> NDArray[np.float32]:
    """float32 numbers from their upper halves."""
    return (halves.astype(np.uint32) << 16).view(np.float32)


def _array_of(sample: Sample, name: str) -> NDArray[Any]:
    array = sample.arrays.get(name)
    if array is None or array.ndim != 2:
        raise ShardError(
            f"sample {sample.number} has no tokens (N, S) of stream {name}, which its spec names"
        )
    return array


def _rows(arrays: Sequence[NDArray[Any]], bits: int, dtype: str) -> list[NDArray[Any]]:
    """Tokens as they are stored, one row a sample: in one array if all have one length."""
    alike = len({len(array) for array in arrays}) == 1
    rows = (
        [np.stack(arrays).reshape(len(arrays), -1)] if alike else [array.reshape(1, -1) for array in arrays]
    )
    if bits:
        return [pack(row, bits) for row in rows]
    return [to_bfloat16(row) for row in rows] if dtype == "bfloat16" else rows


def _lies_in(dtype: str, bits: int) -> str:
    return "uint8" if bits else "uint16" if dtype == "bfloat16" else dtype


def _lists(rows: list[NDArray[Any]], fixed: bool, name: str, dtype: np.dtype[Any]) -> Any:
    import pyarrow as pa

    values = np.concatenate([row.reshape(-1) for row in rows]) if rows else np.empty(0, dtype)
    item = pa.field("item", pa.from_numpy_dtype(dtype), nullable=False)
    if fixed:
        kind = pa.list_(item, rows[0].shape[1])
        return pa.FixedSizeListArray.from_arrays(pa.array(values, item.type), type=kind)
    if values.size > MAX_ITEMS:
        raise ShardError(
            f"a shard would hold {values.size} values of stream {name}, more than {MAX_ITEMS}: lower shard_size"
        )
    sizes = [row.shape[1] for row in rows for _ in range(len(row))]
    offsets = np.cumsum([0, *sizes], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, item.type), type=pa.list_(item))
