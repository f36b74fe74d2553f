"""Shards as Arrow IPC files, one record batch each, which pyarrow, polars, datasets and Ray Data read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vistok.errors import ShardError
from vistok.shards.arrow_columns import JSON_COLUMN, Column, to_columns, to_set_columns
from vistok.shards.arrow_file import read_batch, write_batch
from vistok.shards.arrow_schema import RunColumns
from vistok.shards.arrow_streams import StreamColumns, StreamReader
from vistok.shards.commit import HashedFile
from vistok.shards.container import ABSENT, Block, Origin, Sample, Shape
from vistok.spec import TokenizerSpec

FORMAT_VERSION = 1
OWN_FIELDS = ("key", "size", "grid")
METADATA_NAME = b"vistok"


class ArrowContainer:
    """One row a sample: ``key``, a column by the name of each stream, and one for each field of the dataset.

    Tokens are fixed-size lists where all images of the run are sure to have one size, else variable lists; N and S are
    one after the other, position-major. They have the smallest unsigned type that holds the codebook or, packed, are bytes
    in which each index takes ceil(log2 K) bits. What is the same for all samples (``size``, ``grid``, shapes) stands in
    the schema's metadata under ``vistok``, beside the fingerprint and the spec; where it may vary it is the
    columns ``height``, ``width``, ``STREAM.grid`` and, for packed tokens, ``STREAM.length``. Values that have no column
    of their type are JSON text in the column ``json``.

    All shards of a run have the same columns, ``Origin.columns``, so that other readers take them as one table; a field
    that a sample does not have is null. Without them a shard has what its own samples need.

    A shard is put together in memory before it is written. Reading maps the file and finds a sample by its position;
    a file that shrinks while it is mapped ends the process, as with any mapping, so shards are replaced, never edited.

    Other readers: ``pyarrow.ipc.open_file``, ``polars.read_ipc``, ``datasets.load_dataset("arrow", data_files=...)``,
    ``ray.data.from_arrow(pyarrow.ipc.open_file(path).read_all())``.

    Args:
        packed: Whether indices are packed into bits.
    """

    suffix = ".arrow"

    def __init__(self, packed: bool = False) -> None:
        self.name = "arrow-packed" if packed else "arrow"
        self._packed = packed

    def write(self, file: HashedFile, samples: Iterable[Sample], origin: Origin) -> int:
        """Writes samples in the order given; returns how many.

        Raises:
            ShardError: samples with other streams than the spec says, or too large for one shard.
        """
        import pyarrow as pa

        kept = list(samples)
        streams = [
            StreamColumns.of(kept, stream, self._packed, origin.latents, origin.columns)
            for stream in origin.spec.streams
        ]
        size, size_columns = _sizes(kept, origin.columns)
        columns: dict[str, Any] = {
            "key": pa.array([_text(sample.meta["key"]) for sample in kept], pa.string())
        }
        columns.update(size_columns)
        for stream in streams:
            columns.update(stream.columns)
        own = [pa.field(name, column.type, nullable=False) for name, column in columns.items()]
        metas = [_fields_of(sample.meta) for sample in kept]
        if origin.columns is None:
            fields, optional = to_columns(metas, {*columns, *OWN_FIELDS, "height", "width"})
        else:
            fields, optional = to_set_columns(metas, origin.columns.fields, origin.columns.text)
        described = {
            "format": FORMAT_VERSION,
            "fingerprint": origin.fingerprint,
            "numbers": _runs([sample.number for sample in kept]),
            "optional": optional,
            "size": size,
            "spec": _anonymous(origin.spec),
            "streams": {stream.name: stream.described for stream in streams},
        }
        text = json.dumps(described, sort_keys=True, separators=(",", ":"))
        schema = pa.schema(
            [*own, *(pa.field(name, column.type) for name, column in fields.items())],
            metadata={METADATA_NAME: text.encode()},
        )
        write_batch(file, pa.record_batch([*columns.values(), *fields.values()], schema=schema))
        return len(kept)

    def open(self, path: Path) -> OpenArrow:
        """Maps a shard and checks its framing, offsets and text.

        Raises:
            ShardError: the file is missing or damaged.
        """
        return OpenArrow(path)


class OpenArrow:
    """An Arrow shard, mapped into memory; samples are views and copies of it, and no file is held open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        batch = read_batch(path)
        try:
            self._parse(batch)
        except ShardError:
            raise
        except Exception as error:  # the metadata may say anything: wrong types, names, nesting
            raise ShardError(f"{path} is damaged: {type(error).__name__}: {error}".splitlines()[0]) from error

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Sample numbers that it holds, ascending."""
        return self._numbers

    def read(self, position: int) -> Sample:
        """The sample at a position in [0, len(numbers)).

        Raises:
            ShardError: its fields are damaged.
        """
        block = self.take(np.array([position], dtype=np.int64))
        meta = {name: values[0] for name, values in block.meta.items() if values[0] is not ABSENT}
        arrays = {name: array[0] for name, array in block.arrays.items()}
        return Sample(int(self._numbers[position]), arrays, meta)

    def take(self, positions: NDArray[np.int64]) -> Block:
        """The samples at some positions, at least one, in that order.

        Raises:
            ShardError: their fields are damaged.
        """
        meta = {name: column.take(positions) for name, column in self._fields.items()}
        if self._rest is not None:
            _add(meta, [self._loads(text) for text in self._rest.take(positions)])
        meta["size"] = self._sizes(positions)
        meta["grid"] = self._grids(positions)
        return Block({name: stream.take(positions) for name, stream in self._streams.items()}, meta)

    def shapes(self) -> list[Shape]:
        """Size and grids of each sample."""
        everything = np.arange(len(self._numbers))
        return [
            (tuple(size), tuple(map(tuple, grid.values())))
            for size, grid in zip(self._sizes(everything), self._grids(everything), strict=True)
        ]

    def _sizes(self, positions: NDArray[np.int64]) -> list[list[int]]:
        if isinstance(self._size, list):
            return [self._size] * len(positions)
        sides = (column.take(positions) for column in self._size)
        return [list(size) for size in zip(*sides, strict=True)]

    def _parse(self, batch: Any) -> None:
        described = json.loads(batch.schema.metadata[METADATA_NAME])
        if described["format"] != FORMAT_VERSION:
            raise ShardError(f"{self._path} has format {described['format']}: upgrade vistok to read it")
        self.fingerprint = str(described["fingerprint"])
        runs = [(int(start), int(stop)) for start, stop in described["numbers"]]
        ends = [end for run in runs for end in run]
        # checked before anything of that size is made
        if sum(stop - start for start, stop in runs) != batch.num_rows or ends != sorted(set(ends)):
            raise ShardError(f"{self._path} is damaged: it does not say the number of each of its rows")
        self._numbers = np.concatenate(
            [np.arange(start, stop, dtype=np.int64) for start, stop in runs] or [np.empty(0, np.int64)]
        )
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        self._streams = {
            name: StreamReader(name, stream, columns) for name, stream in described["streams"].items()
        }
        self._size: list[int] | tuple[Column, Column]
        if described["size"] is None:
            self._size = Column(columns.pop("height")), Column(columns.pop("width"))
        else:
            height, width = described["size"]
            self._size = [int(height), int(width)]
        rest = columns.pop(JSON_COLUMN, None)
        texts = None if rest is None else Column(rest)
        self._rest = None if texts is None or texts.is_blank else texts
        optional = set(described["optional"])
        self._fields = {name: Column(column, name in optional) for name, column in columns.items()}
        if "key" not in self._fields or not self._streams:
            raise ShardError(f"{self._path} is damaged: it has no keys or no tokens")

    def _grids(self, positions: NDArray[np.int64]) -> list[dict[str, list[int]]]:
        constant = {name: stream.grid for name, stream in self._streams.items() if stream.grid is not None}
        if len(constant) == len(self._streams):
            return [constant] * len(positions)
        grids = {name: stream.grids(positions) for name, stream in self._streams.items()}
        return [dict(zip(grids, of_sample, strict=True)) for of_sample in zip(*grids.values(), strict=True)]

    def _loads(self, text: str) -> dict[str, Any]:
        try:
            fields = json.loads(text) if text else {}
        except (ValueError, RecursionError) as error:
            raise ShardError(f"{self._path} is damaged: its JSON column: {error}") from error
        if not isinstance(fields, dict):
            raise ShardError(f"{self._path} is damaged: its JSON column does not hold objects")
        return fields


def _sizes(samples: Sequence[Sample], columns: RunColumns | None) -> tuple[list[int] | None, dict[str, Any]]:
    """The size of all images, or columns of their sizes."""
    import pyarrow as pa

    sizes = [list(sample.meta["size"]) for sample in samples]
    if columns is not None:
        if columns.size is not None and any(size != list(columns.size) for size in sizes):
            raise ShardError(f"an image is not {columns.size[0]} x {columns.size[1]}, the size of this run")
        if columns.size is not None:
            return list(columns.size), {}
    elif sizes and all(size == sizes[0] for size in sizes):
        return sizes[0], {}
    return None, {
        name: pa.array([size[side] for size in sizes], pa.int32())
        for side, name in enumerate(("height", "width"))
    }


def _fields_of(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What the dataset said; the key too where it is not text, since the key's column then shows it with escapes."""
    fields = {name: value for name, value in meta.items() if name not in OWN_FIELDS}
    return fields if _text(meta["key"]) == meta["key"] else {**fields, "key": meta["key"]}


def _text(key: str) -> str:
    return key.encode("utf-8", "backslashreplace").decode()


def _add(meta: dict[str, list[Any]], rest: list[dict[str, Any]]) -> None:
    """Puts fields from the JSON column beside those that have columns; a key there is the true one."""
    for name in {name for fields in rest for name in fields}:
        before = meta.get(name, [ABSENT] * len(rest))
        meta[name] = [fields.get(name, value) for fields, value in zip(rest, before, strict=True)]


def _runs(numbers: list[int]) -> list[list[int]]:
    """Ascending numbers as [start, stop) of each run without a gap."""
    runs = []
    for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        runs.append([run[0], run[-1] + 1])
    return runs


def _anonymous(spec: TokenizerSpec) -> dict[str, Any]:
    """The spec without what may differ between tokenizers that make the same tokens, so that the shards do not."""
    return replace(spec, name="", licence="unknown", provenance={}, metrics=()).to_json_data()
