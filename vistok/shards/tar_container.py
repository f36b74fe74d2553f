"""Shards as deterministic tar files that plain ``webdataset`` reads."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from vistok.errors import ShardError
from vistok.shards.commit import HashedFile
from vistok.shards.container import Block, Origin, Sample, Shape

BLOCK = 512
RECORD = 10240
MAX_ARRAY_BYTES = 1 << 30
MAX_META_BYTES = 1 << 24
MEMBER_NAME = re.compile(r"(\d{9,12})\.(?:json|([A-Za-z0-9_]+)\.npy)", re.ASCII)
ARRAY_TYPES = frozenset(
    np.dtype(name) for name in ("uint8", "uint16", "uint32", "uint64", "float16", "float32")
)


class TarContainer:
    """Tar with two or more members a sample: ``NUMBER.STREAM.npy`` for each stream, then ``NUMBER.json``.

    Members are named by the sample's number in the plan, with nine digits, because keys do not survive as names:
    readers cut them at the first dot, skip a leading one, and ustar refuses long ones. The true key is in the JSON.
    Time, owner and mode are fixed, so equal samples give equal bytes.
    """

    name = "tar"
    suffix = ".tar"

    def write(self, file: HashedFile, samples: Iterable[Sample], origin: Origin) -> int:
        """Writes samples in the order given; returns how many."""
        count = 0
        for sample in samples:
            for stream in sorted(sample.arrays):
                buffer = io.BytesIO()
                np.lib.format.write_array(
                    buffer, np.ascontiguousarray(sample.arrays[stream]), version=(1, 0), allow_pickle=False
                )
                _write_member(file, f"{sample.number:09d}.{stream}.npy", buffer.getvalue())
            meta = json.dumps(sample.meta, sort_keys=True, allow_nan=False)
            _write_member(file, f"{sample.number:09d}.json", meta.encode())
            count += 1
        end = file.size + 2 * BLOCK
        file.write(bytes(2 * BLOCK + -end % RECORD))
        return count

    def open(self, path: Path) -> OpenTar:
        """Opens a shard and reads its member headers.

        Raises:
            ShardError: the file is missing or damaged.
        """
        return OpenTar(path)


class OpenTar:
    """A tar shard: members are found once, then read by offset; nothing is ever extracted.

    It holds no file open between calls, so it may be pickled, forked, and kept for any number of shards.
    """

    fingerprint = ""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._file() as fd:
            self._size = os.fstat(fd).st_size
            self._scan(fd)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Sample numbers that it holds, ascending."""
        return self._numbers

    def read(self, position: int) -> Sample:
        """The sample at a position in [0, len(numbers)).

        Raises:
            ShardError: its members are damaged.
        """
        number = int(self._numbers[position])
        members: list[tuple[int, int]] = self._table[position].tolist()
        start, end = members[0][0], members[-1][0] + members[-1][1]
        with self._file() as fd:
            data = self._pread(fd, end - start, start)
        arrays: dict[str, NDArray[Any]] = {}
        for stream, (offset, size) in zip(self._streams, members, strict=False):
            piece = data[offset - start : offset - start + size]
            arrays[stream] = parse_array(piece, f"{self._path}: sample {number}, stream {stream}")
        meta = parse_meta(data[members[-1][0] - start :], f"{self._path}: sample {number}")
        return Sample(number, arrays, meta)

    def take(self, positions: NDArray[np.int64]) -> Block:
        """The samples at some positions, at least one, in that order; each is a read of its own."""
        return Block.of([self.read(int(position)) for position in positions])

    def shapes(self) -> list[Shape]:
        """Size and grids of each sample; reads all of them."""
        metas = (self.read(position).meta for position in range(len(self._numbers)))
        return [(tuple(meta["size"]), tuple(map(tuple, meta["grid"].values()))) for meta in metas]

    def _scan(self, fd: int) -> None:
        """Finds all members. Every sample must have the same streams, each once, and then its JSON."""
        streams: tuple[str, ...] | None = None
        numbers: list[int] = []
        table: list[list[tuple[int, int]]] = []
        seen: list[str] = []
        places: list[tuple[int, int]] = []
        current = -1
        for number, stream, offset, size in self._members(fd):
            if not places:
                if number <= current:
                    raise ShardError(f"{self._path} is damaged: sample {number} comes after {current}")
                current = number
            if number != current:
                raise ShardError(f"{self._path} is damaged: sample {current} is incomplete")
            places.append((offset, size))
            if stream is not None:
                seen.append(stream)
                continue
            streams = tuple(seen) if streams is None else streams
            if not seen or tuple(seen) != streams or len(set(seen)) != len(seen):
                raise ShardError(
                    f"{self._path} is damaged: sample {current} has streams {seen}, not {list(streams)}"
                )
            numbers.append(number)
            table.append(places)
            seen, places = [], []
        if places:
            raise ShardError(f"{self._path} is damaged: sample {current} is incomplete")
        self._streams = streams or ()
        self._numbers = np.array(numbers, dtype=np.int64)
        self._table = np.array(table, dtype=np.int64).reshape(len(numbers), len(self._streams) + 1, 2)

    def _members(self, fd: int) -> Iterator[tuple[int, str | None, int, int]]:
        """Number, stream (None for the JSON), offset and size of each member; checks that the file ends as it should."""
        position = 0
        while True:
            header = self._pread(fd, BLOCK, position)
            if not any(header):
                break
            number, stream, size = self._parse_header(header, position)
            position += BLOCK
            yield number, stream, position, size
            position += size + -size % BLOCK
        tail = self._size - position
        if (
            tail < 2 * BLOCK
            or self._size % RECORD
            or tail > RECORD + BLOCK
            or any(self._pread(fd, tail, position))
        ):
            raise ShardError(f"{self._path} is damaged: it does not end where its members do")

    def _parse_header(self, header: bytes, position: int) -> tuple[int, str | None, int]:
        try:
            info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise ShardError(f"{self._path} is damaged at byte {position}: {error}") from error
        match = MEMBER_NAME.fullmatch(info.name)
        if match is None or info.type != tarfile.REGTYPE:
            raise ShardError(f"{self._path} holds {info.name!r}, which is not a member of a token shard")
        stream = match.group(2)
        limit = MAX_META_BYTES if stream is None else MAX_ARRAY_BYTES
        if not 0 <= info.size <= min(limit, self._size - position - BLOCK):
            raise ShardError(f"{self._path} is damaged: member {info.name} claims {info.size} bytes")
        return int(match.group(1)), stream, info.size

    @contextlib.contextmanager
    def _file(self) -> Iterator[int]:
        try:
            fd = os.open(self._path, os.O_RDONLY)
        except OSError as error:
            raise ShardError(f"{self._path} cannot be opened: {error.strerror}") from error
        try:
            yield fd
        finally:
            os.close(fd)

    def _pread(self, fd: int, size: int, offset: int) -> bytes:
        try:
            data = os.pread(fd, size, offset)
        except OSError as error:
            raise ShardError(f"{self._path} cannot be read at byte {offset}: {error.strerror}") from error
        if len(data) != size:
            raise ShardError(f"{self._path} is truncated: it ends at byte {offset + len(data)}")
        return data


def parse_array(data: bytes, where: str) -> NDArray[Any]:
    """An array from the bytes of an npy file; sizes are checked before anything is allocated.

    Raises:
        ShardError: not an npy file, a type that shards do not hold, or a size that disagrees with the header.
    """
    file = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("not npy version 1.0")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception as error:  # numpy evaluates the header as a literal, which can raise almost anything
        raise ShardError(
            f"{where}: the array is damaged: {type(error).__name__}: {error}".splitlines()[0]
        ) from error
    rest = len(data) - file.tell()
    count = 1
    for side in shape:
        count *= side
    if (
        dtype not in ARRAY_TYPES
        or fortran
        or len(shape) != 2
        or min(shape) < 0
        or count * dtype.itemsize != rest
    ):
        raise ShardError(f"{where}: the array is damaged: {rest} bytes cannot be {dtype} of shape {shape}")
    array: NDArray[Any] = np.frombuffer(data, dtype=dtype, offset=file.tell()).reshape(shape)
    return array


def parse_meta(data: bytes, where: str) -> dict[str, Any]:
    """The JSON member of a sample.

    Raises:
        ShardError: not a JSON object with a key, a size and a grid.
    """
    try:
        meta = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{where}: the JSON is damaged: {error}") from error
    if (
        not isinstance(meta, dict)
        or not isinstance(meta.get("key"), str)
        or not isinstance(meta.get("grid"), dict)
    ):
        raise ShardError(f"{where}: the JSON has no key and grid")
    size = meta.get("size")
    if not _are_sizes(size) or len(size) != 2 or not all(_are_sizes(grid) for grid in meta["grid"].values()):
        raise ShardError(f"{where}: the JSON has a size or grid that is not a list of integers")
    return meta


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in value
    )


def _write_member(file: HashedFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    # uid, gid, owner names and mtime are zero and empty by default: nothing of this machine or moment enters
    file.write(info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict"))
    file.write(data)
    file.write(bytes(-len(data) % BLOCK))
