"""Samples of token shards in sequence, one at a time or in batches: shuffled within a window of shards, split among ranks
and workers, resumable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from vistok.errors import ShardError
from vistok.shards.collate import collate
from vistok.shards.fingerprint import Fingerprint
from vistok.shards.stream_order import Order, ShapeBatches


class Samples(Protocol):
    """Samples by position, one or several at once."""

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def __getitems__(self, indices: NDArray[np.int64]) -> Sequence[Mapping[str, Any]]: ...


class ShardStream(IterableDataset[dict[str, Any]]):
    """The samples of shards in one deterministic order per (seed, epoch), each rank and worker its own part.

    Shuffling draws the order of the shards, then mixes the samples of 16 neighbours at a time, so that reads stay
    near each other. Every rank gets the same number of samples: with W ranks up to W - 1 at the end are left out.
    Worker j of n takes every n-th sample of its rank, or with ``batch_size`` every n-th batch, so that a DataLoader gives
    the same in the same order with any number of workers. Batches are read at once, which is many times faster than
    sample by sample: give them to
    ``DataLoader(stream, batch_size=None, collate_fn=vistok.shards.collate, num_workers=n)``.

    To resume, either let torchdata's StatefulDataLoader keep the state of each worker; or count the batches that the
    training loop has used and call ``seek`` before the pass, with any number of workers. Call ``set_epoch`` before each
    further pass, and do without ``persistent_workers``, whose copies of the stream would not hear of it.

    Args:
        samples: Where to read them.
        counts: Samples of each shard.
        shuffle: False gives the order of the plan.
        seed: Of the order.
        epoch: Another order for each; ``set_epoch`` before each pass.
        rank: In [0, world); if not given that of torch.distributed, asked when a pass begins, 0 without it.
        world: Number of ranks; if not given that of torch.distributed, asked when a pass begins, 1 without it.
        batch_size: Samples of one batch, as ``collate`` gives it; the last one may be shorter. Where samples differ in size
            or grid, each batch is of one of them; see ``ShapeBatches``. None gives single samples.

    Raises:
        ShardError: a rank outside the world, a batch size below 1.
    """

    def __init__(
        self,
        samples: Samples,
        counts: Sequence[int],
        *,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        rank: int | None = None,
        world: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        self._rank, self._world = rank, world
        if rank is not None and world is not None:
            self._check_rank()
        if batch_size is not None and batch_size < 1:
            raise ShardError(f"batch_size must be at least 1, it is {batch_size}")
        self._samples, self._counts = samples, list(counts)
        self.shuffle, self.seed, self.epoch, self.batch_size = shuffle, seed, epoch, batch_size
        # what has no shapes is of one shape
        self._shapes: NDArray[np.int32] | None = (
            getattr(samples, "shapes", None) if batch_size is not None else None
        )
        # where a pass begins, and where the newest one stands
        self._begin = self._newest = _Place()

    @property
    def rank(self) -> int:
        """The rank that was given, else that of the process group of now."""
        return self._rank if self._rank is not None else (torch.distributed.get_rank() if _grouped() else 0)

    @property
    def world(self) -> int:
        """Number of ranks: as given, else that of the process group of now."""
        if self._world is not None:
            return self._world
        return torch.distributed.get_world_size() if _grouped() else 1

    def __len__(self) -> int:
        """Samples that this rank gets in one pass, or batches."""
        if self._shapes is not None and self.batch_size is not None:
            return ShapeBatches.count(self._shapes, self.batch_size, self.world)
        return -(-self._num_samples // (self.batch_size or 1))

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next pass, which begins at its start."""
        self.epoch = epoch
        self._begin = self._newest = _Place()

    def seek(self, done: int) -> None:
        """Begins passes after as many samples, or batches, as all workers of this rank have given so far.

        It holds until a pass has come to its end or ``set_epoch`` is called; a pass that is broken off does not count.

        Raises:
            ShardError: a pass has fewer.
        """
        if not 0 <= done <= len(self):
            raise ShardError(f"a pass has {len(self)} steps, it cannot begin after {done}")
        self._begin = self._newest = _Place(done)

    def state_dict(self) -> dict[str, Any]:
        """Where the newest pass stands, in the process that iterates."""
        return {
            **self._identity(),
            "epoch": self.epoch,
            "start": self._newest.start,
            "done": self._newest.done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where ``state_dict`` was taken.

        Raises:
            ShardError: the state is of a stream with other samples, another seed or another split.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise ShardError(
                    f"this stream has {name} {value!r}, the state was saved with {state.get(name)!r}"
                )
        self.epoch = int(state["epoch"])
        self._begin = self._newest = _Place(int(state["start"]), int(state["done"]))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._check_rank()
        # each pass has a place of its own: one that was only looked into takes nothing from the next
        self._newest = place = replace(self._begin)
        order = Order(self._counts, self.seed, self.epoch, self.shuffle)
        batches = None
        if self._shapes is not None and self.batch_size is not None:
            shapes = self._shapes[order.take(np.arange(len(self._shapes)))]
            batches = ShapeBatches(shapes, self.batch_size, self.world)
        return self._pass(place, self._begin, order, batches)

    def __getstate__(self) -> dict[str, Any]:
        # a worker process is in no group: it takes the rank of the process that it works for
        settled = {"_rank": self.rank, "_world": self.world} if _grouped() else {}
        return {**self.__dict__, **settled}

    def _check_rank(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ShardError(f"rank {self.rank} is not one of {self.world}")

    def _pass(
        self, place: _Place, begin: _Place, order: Order, batches: ShapeBatches | None
    ) -> Iterator[dict[str, Any]]:
        worker, num_workers = _worker()
        first = place.start + worker + place.done * num_workers
        for step in range(first, len(self), num_workers):
            # counted before it is given: a state taken while the consumer holds a sample does not give it twice
            place.done += 1
            yield self._read(order, batches, step)
        place.start = place.done = 0
        if self._begin is begin:
            self._begin = _Place()

    @property
    def _num_samples(self) -> int:
        return sum(self._counts) // self.world

    def _read(self, order: Order, batches: ShapeBatches | None, step: int) -> dict[str, Any]:
        if batches is not None:
            return collate(self._samples.__getitems__(order.take(batches.take(step, self.rank))))
        if self.batch_size is None:
            return self._samples[int(order.take(np.array([step * self.world + self.rank]))[0])]
        first = step * self.batch_size
        places = np.arange(first, min(first + self.batch_size, self._num_samples))
        return collate(self._samples.__getitems__(order.take(places * self.world + self.rank)))

    def _identity(self) -> dict[str, Any]:
        marks = getattr(self._samples, "fingerprint", None)
        return {
            "seed": self.seed,
            "shuffle": self.shuffle,
            "rank": self.rank,
            "world": self.world,
            "batch_size": self.batch_size,
            "num_workers": _worker()[1],
            "num_samples": sum(self._counts),
            "num_samples_of_shards": hashlib.sha256(json.dumps(self._counts).encode()).hexdigest(),
            "fingerprint": marks.sha256 if isinstance(marks, Fingerprint) else "",
        }


@dataclass
class _Place:
    """A place in a pass: the steps before it were given by all workers, or are ``done`` by this one."""

    start: int = 0
    done: int = 0


def _grouped() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _worker() -> tuple[int, int]:
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)
