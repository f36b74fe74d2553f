"""Rows of an Arrow file that lies on the disk, mapped into memory: any row costs the same."""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from vistok.errors import DataError

_FILE_MAGIC = b"ARROW1"
_STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"
MAX_MAPPED = 64


class ArrowRows:
    """An uncompressed Arrow file, in the stream format of Hugging Face datasets or in the file format.

    Nothing of it is kept in memory but where its batches lie. A process holds the newest ``MAX_MAPPED`` of them open.

    Attributes:
        columns: Those that are wanted; reading takes others too.

    Raises:
        DataError: not an Arrow file, compressed, damaged or truncated.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[Any, list[Any], list[int]] | None = None
        self.stamp = file_stamp(path)
        self.schema, _, starts = self._open()
        self.num_rows: int = starts[-1]
        self.columns: tuple[str, ...] = tuple(self.schema.names)

    def read(self, row: int, columns: Sequence[str]) -> dict[str, Any]:
        """Some columns of a row, as Python values.

        Raises:
            DataError: damaged, or changed since it was opened.
        """
        # what lies behind the end of a mapped file ends the process, so the size is looked at before
        if file_stamp(self.path) != self.stamp:
            raise DataError(f"{str(self.path)!r} has changed since it was opened: build the dataset again")
        _, batches, starts = self._open()
        place = bisect_right(starts, row) - 1
        try:
            found = batches[place].select(list(columns)).slice(row - starts[place], 1)
            # a wrong offset would be read from beyond the file: of one row this costs nothing
            found.validate(full=True)
            values: dict[str, Any] = found.to_pylist()[0]
        except Exception as error:
            raise DataError(damaged(self.path, error, f"row {row} of ")) from error
        return values

    def column(self, name: str) -> Iterator[Any]:
        """All values of a column, in order."""
        try:
            for batch in self._open()[1]:
                part = batch.select([name])
                part.validate(full=True)
                yield from part.column(0).to_pylist()
        except DataError:
            raise
        except Exception as error:
            raise DataError(damaged(self.path, error)) from error

    def _open(self) -> tuple[Any, list[Any], list[int]]:
        """The schema, the batches, and the first row of each, with the number of rows at the end."""
        import pyarrow

        if self._opened is None:
            try:
                source = pyarrow.memory_map(str(self.path))
                whole = source.read_buffer()
                source.seek(0)
                if whole[: len(_FILE_MAGIC)].to_pybytes() == _FILE_MAGIC:
                    reader = pyarrow.ipc.open_file(source)
                    found = (reader.get_batch(place) for place in range(reader.num_record_batches))
                else:
                    # without the mark at its end a stream may have been cut between batches
                    if whole[max(0, whole.size - len(_STREAM_END)) :].to_pybytes() != _STREAM_END:
                        raise DataError(
                            f"{str(self.path)!r} is no Arrow file, or was cut short: fetch it again"
                        )
                    reader = pyarrow.ipc.open_stream(source)
                    found = iter(reader)
                check_names(reader.schema)
                batches = [self._in_place(batch, whole) for batch in found]
            except DataError:
                raise
            except Exception as error:  # readers of damaged files raise whatever they stumble over
                raise DataError(damaged(self.path, error)) from error
            self._opened = reader.schema, batches, [0, *accumulate(batch.num_rows for batch in batches)]
            _mapped[id(self)] = weakref.ref(self)
            while len(_mapped) > MAX_MAPPED:
                oldest = _mapped.popitem(last=False)[1]()
                if oldest is not None:
                    oldest._opened = None
        return self._opened

    def _in_place(self, batch: Any, whole: Any) -> Any:
        """The batch, if its data lies in the file as it is: what had to be unpacked would fill the memory."""
        batch.validate()
        for column in batch.columns:
            for part in column.buffers():
                if part is not None and part.size and not 0 <= part.address - whole.address < whole.size:
                    raise DataError(
                        f"{str(self.path)!r} is compressed, so its rows cannot be read one by one: "
                        "write it again without compression, or as Parquet"
                    )
        return batch

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


# those of this process that are open, the oldest first; a process may hold few open files
_mapped: OrderedDict[int, weakref.ref[ArrowRows]] = OrderedDict()


def damaged(path: Path, error: Exception, part: str = "") -> str:
    """The message for a table that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return f"{str(path)!r} does not exist: check the path"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{part}{str(path)!r} cannot be read ({reason}): fetch it again"


def check_names(fields: Iterable[Any]) -> None:
    """Reads the names of columns and of what is inside them.

    Raises:
        UnicodeDecodeError: one is not UTF-8, so the file is damaged.
    """
    for field in fields:
        _ = field.name
        check_names(field.type.field(place) for place in range(field.type.num_fields))


def file_stamp(path: Path) -> tuple[int, int]:
    """Size and time of a file, which differ once it was written anew.

    Raises:
        DataError: there is none.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(damaged(path, error)) from error
    return status.st_size, status.st_mtime_ns
