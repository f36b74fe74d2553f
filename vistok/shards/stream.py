"""Samples of token shards in sequence: shuffled within a window of shards, split among ranks and workers, resumable."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from vistok.errors import ShardError

WINDOW_SHARDS = 16


class Samples(Protocol):
    """Samples by position."""

    def __getitem__(self, index: int) -> dict[str, Any]: ...


class ShardStream(IterableDataset[dict[str, Any]]):
    """The samples of shards in one deterministic order per (seed, epoch), each rank and worker its own part.

    Shuffling draws the order of the shards, then mixes the samples of 16 neighbours at a time, so that reads stay
    near each other. Every rank gets the same number of samples: with W ranks up to W - 1 at the end are left out.
    Worker j of n takes every n-th sample of its rank.

    Args:
        samples: Where to read them.
        counts: Samples of each shard.
        shuffle: False gives the order of the plan.
        seed: Of the order.
        epoch: Another order for each; ``set_epoch`` before each pass.
        rank: In [0, world); that of torch.distributed if not given.
        world: Number of ranks; that of torch.distributed if not given, 1 without it.

    Raises:
        ShardError: a rank outside the world.
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
    ) -> None:
        group = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = rank if rank is not None else (torch.distributed.get_rank() if group else 0)
        self.world = world if world is not None else (torch.distributed.get_world_size() if group else 1)
        if not 0 <= self.rank < self.world:
            raise ShardError(f"rank {self.rank} is not one of {self.world}")
        self._samples, self._counts = samples, list(counts)
        self.shuffle, self.seed, self.epoch = shuffle, seed, epoch
        self._done = 0

    def __len__(self) -> int:
        """Samples that this rank gets in one pass."""
        return sum(self._counts) // self.world

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next pass, which begins at its start."""
        self.epoch, self._done = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the pass stands, in the process that iterates."""
        return {**self._identity(), "epoch": self.epoch, "done": self._done}

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
        self.epoch, self._done = int(state["epoch"]), int(state["done"])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker, num_workers = _worker()
        order = _Order(self._counts, self.seed, self.epoch, self.shuffle)
        first = worker + self._done * num_workers
        for position in range(first, len(self), num_workers):
            # counted before it is given: a state taken while the consumer holds a sample does not give it twice
            self._done += 1
            yield self._samples[order[position * self.world + self.rank]]
        self._done = 0

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "shuffle": self.shuffle,
            "rank": self.rank,
            "world": self.world,
            "num_workers": _worker()[1],
            "num_samples": sum(self._counts),
        }


class _Order:
    """Position in the pass -> position in the dataset; remembers the window that was asked for last."""

    def __init__(self, counts: Sequence[int], seed: int, epoch: int, shuffle: bool) -> None:
        self._starts = list(itertools.accumulate(counts, initial=0))
        self._shuffle, self._entropy = shuffle, (seed, epoch)
        shards = self._permutation(0, len(counts)).tolist() if shuffle else list(range(len(counts)))
        self._windows = [shards[i : i + WINDOW_SHARDS] for i in range(0, len(shards), WINDOW_SHARDS)]
        sizes = [sum(counts[shard] for shard in window) for window in self._windows]
        self._window_starts = list(itertools.accumulate(sizes, initial=0))
        self._current = -1
        self._positions: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def __getitem__(self, position: int) -> int:
        window = bisect.bisect_right(self._window_starts, position) - 1
        if window != self._current:
            self._positions, self._current = self._load(window), window
        return int(self._positions[position - self._window_starts[window]])

    def _load(self, window: int) -> NDArray[np.int64]:
        parts = [
            np.arange(self._starts[s], self._starts[s + 1], dtype=np.int64) for s in self._windows[window]
        ]
        positions = np.concatenate(parts)
        return positions[self._permutation(window + 1, len(positions))] if self._shuffle else positions

    def _permutation(self, draw: int, size: int) -> NDArray[np.int64]:
        # numpy promises the raw bits of a bit generator for ever, and nothing about its shuffle()
        bits = np.random.PCG64(np.random.SeedSequence([*self._entropy, draw])).random_raw(size)
        order: NDArray[np.int64] = np.argsort(bits, kind="stable")
        return order


def _worker() -> tuple[int, int]:
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)
