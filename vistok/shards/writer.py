"""Commits shards, in a thread of its own, so that the model waits for no disk."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from vistok.errors import ShardError
from vistok.shards.commit import replacing, write_file
from vistok.shards.container import Container, Origin
from vistok.shards.failures import Failures
from vistok.shards.latents import LatentStatistics
from vistok.shards.plan import Plan
from vistok.shards.samples import EncodedBatch, FailedImage, in_order
from vistok.shards.sidecar import Sidecar, shard_name, sidecar_path

BATCHES_WAITING = 8
_POLL_SECONDS = 0.1

OnBatch = Callable[[int, int], None]


class ShardWriter:
    """Commits shards: the file first, then the sidecar that says it is there.

    Args:
        out: The output directory.
        box: The container.
        origin: What the shards say of where they come from; each sidecar carries its fingerprint.
        plan: Which image goes where.
        failures: Told of each image that fails.
        moments: Whether latents are stored as means and standard deviations.
    """

    def __init__(
        self, out: Path, box: Container, origin: Origin, plan: Plan, failures: Failures, moments: bool = False
    ) -> None:
        self._out, self._box, self._origin = out, box, origin
        self._plan, self._failures, self._moments = plan, failures, moments

    def write(self, shard: int, batches: Iterable[EncodedBatch | FailedImage], on_batch: OnBatch) -> Sidecar:
        """Takes the batches of exactly one shard and commits it; an exception commits nothing."""
        numbers = self._plan.numbers(shard)
        num_tokens, statistics = 0, LatentStatistics(self._moments)
        path = self._out / shard_name(shard, self._box.suffix)
        # a record without its shard, or with a damaged one, must not vouch for the new file before it is whole
        sidecar_path(self._out, shard).unlink(missing_ok=True)
        with replacing(path) as file:

            def counted() -> Iterator[Any]:
                nonlocal num_tokens
                for sample in in_order(batches, numbers, self._failures, on_batch):
                    num_tokens += sum(len(array) for array in sample.arrays.values())
                    statistics.add(sample.arrays)
                    yield sample

            n_out = self._box.write(file, counted(), self._origin)
            skipped = self._failures.take()
            if n_out + len(skipped) != len(numbers):
                raise ShardError(
                    f"{path} would hold {n_out} of {len(numbers)} images and explain {len(skipped)}"
                )
        sidecar = Sidecar(
            file=path.name,
            n_in=len(numbers),
            n_out=n_out,
            skipped=skipped,
            num_tokens=num_tokens,
            bytes=file.size,
            sha256=file.sha256,
            fingerprint=self._origin.fingerprint,
            latents=statistics.to_json_data(),
        )
        write_file(sidecar_path(self._out, shard), sidecar.to_json())
        return sidecar


class WriterThread:
    """Hands batches to a ``ShardWriter`` that runs beside the model; a context manager, which ends when all is on the disk.

    At most ``BATCHES_WAITING`` batches wait, so a slow disk slows the model and never fills the memory. What goes wrong
    in the thread is raised at the next call. When the block raises, the shard at hand is not committed.
    """

    def __init__(self, writer: ShardWriter, on_batch: OnBatch) -> None:
        self._writer, self._on_batch = writer, on_batch
        self._waiting: queue.Queue[_Item] = queue.Queue(BATCHES_WAITING)
        self._error: BaseException | None = None
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vistok-writer", daemon=True)

    def put(self, shard: int, batch: EncodedBatch | FailedImage | None) -> None:
        """Takes a batch of a shard; None ends the shard, which is then committed."""
        self._put(_Item(shard, batch))

    def __enter__(self) -> WriterThread:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._put(_Item(None, None))
                self._join()
        finally:
            self._given_up.set()
            self._thread.join()
        if self._error is not None and kind is None:
            raise self._error

    def _join(self) -> None:
        # a signal can interrupt a wait that ends now and then
        while self._thread.is_alive():
            self._thread.join(_POLL_SECONDS)

    def _put(self, item: _Item) -> None:
        while True:
            if self._error is not None:
                raise self._error
            try:
                return self._waiting.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue

    def _run(self) -> None:
        try:
            with contextlib.suppress(_GivenUpError):
                while (item := self._get()).shard is not None:
                    self._writer.write(item.shard, self._rest(item), self._on_batch)
        except BaseException as error:  # raised again where the model runs
            self._error = error

    def _rest(self, item: _Item) -> Iterator[EncodedBatch | FailedImage]:
        while item.batch is not None:
            yield item.batch
            item = self._get()

    def _get(self) -> _Item:
        while not self._given_up.is_set():
            with contextlib.suppress(queue.Empty):
                return self._waiting.get(timeout=_POLL_SECONDS)
        raise _GivenUpError


@dataclass(frozen=True)
class _Item:
    """A batch of a shard; without a batch, the end of that shard; without a shard, the end of all."""

    shard: int | None
    batch: EncodedBatch | FailedImage | None


class _GivenUpError(Exception):
    pass
