"""Rows of a Parquet file: decoded in order a few at a time, and the newest kept."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from vistok.data.arrow_rows import check_names, damaged, file_stamp
from vistok.errors import DataError

CACHE_BYTES = 128 << 20
BATCH_BYTES = 8 << 20
MAX_BATCH_ROWS = 1024
MAX_DECODING = 2


class ParquetRows:
    """A Parquet file, read by row within bounded memory whatever the size of its row groups.

    Rows in order cost the least. A jump forward decodes what lies between within the row group, a jump backward begins the
    group again unless the row is among those that were kept. The files of a process share ``CACHE_BYTES``; beside them the
    pages of the ``MAX_DECODING`` newest groups are in memory, which only the writer of a file can make small: pyarrow puts
    up to 1024 rows in one, Hugging Face's datasets 100.

    Attributes:
        columns: Those that are decoded; all, until it is set.

    Raises:
        DataError: not a Parquet file, damaged or truncated.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stamp = file_stamp(path)
        with self._file() as file:
            self.schema = file.schema_arrow
            try:
                check_names(self.schema)
                groups = [file.metadata.row_group(place) for place in range(file.num_row_groups)]
            except ValueError as error:
                raise DataError(damaged(path, error)) from error
        self.columns: tuple[str, ...] = tuple(self.schema.names)
        self._starts = [0, *accumulate(group.num_rows for group in groups)]
        self._batch_rows = [
            max(1, min(MAX_BATCH_ROWS, BATCH_BYTES * group.num_rows // max(1, group.total_byte_size)))
            for group in groups
        ]
        self._broken: dict[int, tuple[int, str]] = {}
        self.num_rows: int = self._starts[-1]
        if any(group.num_rows < 0 for group in groups):
            raise DataError(damaged(path, ValueError("a row group of less than no rows")))

    def read(self, row: int, columns: Sequence[str]) -> dict[str, Any]:
        """Some of ``columns`` of a row, as Python values.

        Raises:
            DataError: damaged, or changed since it was opened.
        """
        group = bisect_right(self._starts, row) - 1
        offset = row - self._starts[group]
        broken_from, reason = self._broken.get(group, (self.num_rows, ""))
        # to decode up to the damage again for each row behind it would take for ever
        if offset >= broken_from:
            raise DataError(reason)
        try:
            number, place = divmod(offset, self._batch_rows[group])
            batch = _cache.batch(self, group, number)
            values: dict[str, Any] = batch.select(list(columns)).slice(place, 1).to_pylist()[0]
        except DataError:
            raise
        except Exception as error:  # readers of damaged files raise whatever they stumble over
            reason = damaged(self.path, error, f"row {row} of ")
            self._broken[group] = (offset, reason)
            raise DataError(reason) from error
        return values

    def column(self, name: str) -> Iterator[Any]:
        """All values of a column, in order."""
        try:
            with self._file() as file:
                for batch in file.iter_batches(columns=[name], batch_size=MAX_BATCH_ROWS, use_threads=False):
                    yield from batch.column(0).to_pylist()
        except DataError:
            raise
        except Exception as error:
            raise DataError(damaged(self.path, error)) from error

    def batches(self, group: int) -> Iterator[Any]:
        """The rows of a row group, as many at a time as make ``BATCH_BYTES``."""
        with self._file() as file:
            yield from file.iter_batches(
                batch_size=self._batch_rows[group],
                row_groups=[group],
                columns=list(self.columns),
                use_threads=False,
            )

    def _file(self) -> Any:
        from pyarrow import parquet

        if file_stamp(self.path) != self.stamp:
            raise DataError(f"{str(self.path)!r} has changed since it was opened: build the dataset again")
        try:
            # without a buffer a whole column of a row group would be read at once
            return parquet.ParquetFile(
                self.path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
            )
        except Exception as error:
            raise DataError(damaged(self.path, error)) from error


class _BatchCache:
    """The newest decoded batches of all files, and the few row groups that are being decoded."""

    def __init__(self) -> None:
        self._decoding: OrderedDict[Any, tuple[Iterator[Any], int]] = OrderedDict()
        self._kept: OrderedDict[Any, Any] = OrderedDict()
        self._bytes = 0

    def batch(self, file: ParquetRows, group: int, number: int) -> Any:
        """A batch of a row group, by its number."""
        place = (str(file.path), file.stamp, group, file.columns)
        wanted = (*place, number)
        if wanted in self._kept:
            self._kept.move_to_end(wanted)
            return self._kept[wanted]
        batches, at = self._decoding.pop(place, (iter(()), number + 1))
        if at > number:
            batches, at = file.batches(group), 0
        for batch in batches:
            self._keep((*place, at), batch)
            at += 1
            if at > number:
                self._decoding[place] = batches, at
                if len(self._decoding) > MAX_DECODING:
                    self._decoding.popitem(last=False)
                return batch
        raise ValueError("it has fewer rows than it says")

    def clear(self) -> None:
        """Forgets everything."""
        self._decoding.clear()
        self._kept.clear()
        self._bytes = 0

    def _keep(self, key: Any, batch: Any) -> None:
        before = self._kept.pop(key, None)
        self._bytes += batch.nbytes - (0 if before is None else before.nbytes)
        self._kept[key] = batch
        while self._bytes > CACHE_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes


# one for the process: a thousand files would otherwise keep a thousand times as much
_cache = _BatchCache()
# a forked process must not go on with files that its parent reads
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_cache.clear)
