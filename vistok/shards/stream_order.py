"""In which order a pass over shards gives their samples, and which of them are batches of one shape."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WINDOW_SHARDS = 16


class Order:
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

    def take(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The dataset's positions of some ascending positions of the pass."""
        windows = np.searchsorted(self._window_starts, positions, side="right") - 1
        parts = []
        for piece in np.split(positions, np.flatnonzero(np.diff(windows)) + 1):
            window = int(np.searchsorted(self._window_starts, piece[0], side="right")) - 1
            if window != self._current:
                self._positions, self._current = self._load(window), window
            parts.append(self._positions[piece - self._window_starts[window]])
        return np.concatenate(parts)

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


class ShapeBatches:
    """Which places of a pass are its batches, where samples differ in shape: each step has one shape on all ranks.

    Samples wait for others of their shape, and a batch comes when the last of its samples does; what is left of each
    shape comes at the end, in shorter batches. All ranks get as many samples; with W ranks up to W - 1 of each shape are
    left out. With one shape these are the batches of consecutive samples.

    Args:
        shapes: Number of the shape of each sample, in the order of the pass.
        batch_size: Samples of a batch of one rank.
        world: Number of ranks.
    """

    def __init__(self, shapes: NDArray[np.int32], batch_size: int, world: int) -> None:
        self._world, each = world, batch_size * world
        self._places = np.argsort(shapes, kind="stable")
        bounds = [0, *(np.flatnonzero(np.diff(shapes[self._places])) + 1).tolist(), len(shapes)]
        spans: list[tuple[int, int, int]] = []
        for start, stop in itertools.pairwise(bounds):
            whole = start + (stop - start) // each * each
            spans += [(int(self._places[i + each - 1]), i, i + each) for i in range(start, whole, each)]
            rest = (stop - whole) // world * world
            if rest:
                spans.append((len(shapes) + whole, whole, whole + rest))
        self._spans = [(start, stop) for _, start, stop in sorted(spans)]

    def __len__(self) -> int:
        return len(self._spans)

    def take(self, step: int, rank: int) -> NDArray[np.int64]:
        """The places of one batch, ascending."""
        start, stop = self._spans[step]
        return self._places[start:stop][rank :: self._world]

    @staticmethod
    def count(shapes: NDArray[np.int32], batch_size: int, world: int) -> int:
        """The number of batches, whatever the order of the samples."""
        sizes, each = np.bincount(shapes), batch_size * world
        return int((sizes // each).sum() + (sizes % each >= world).sum())
