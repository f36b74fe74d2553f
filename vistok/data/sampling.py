"""Which samples a training step sees: a function of the step alone, so that a run can stop and go on anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from vistok.errors import DataError

_HALF = 1 << 32


class PositionSampler(Sampler[list[int]]):
    """Batches of consecutive positions: batch i of the whole run covers [start + i * G, start + (i + 1) * G).

    G = batch_size * world_size is the global batch, of which rank r takes the r-th contiguous slice. The same G gives
    the same global batches at any world size. Pass it to a DataLoader as ``batch_sampler`` over a dataset that takes
    any position, such as ``RandomCrops`` or ``Shuffled``.

    Args:
        batch_size: Samples of one rank.
        rank: In [0, world_size).
        world_size: Number of ranks.
        start: First position.
        num_batches: How many batches an iteration yields; None: without end.

    Raises:
        DataError: a count below 1, a rank outside its range, or a negative start.
    """

    def __init__(
        self,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        num_batches: int | None = None,
    ) -> None:
        if (
            batch_size < 1
            or not 0 <= rank < world_size
            or start < 0
            or (num_batches is not None and num_batches < 0)
        ):
            raise DataError(
                f"batch_size={batch_size}, rank={rank}, world_size={world_size}, start={start}, num_batches={num_batches} "
                "make no batches: sizes are at least 1, ranks below world_size, start and num_batches not negative"
            )
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.start, self.num_batches = start, num_batches

    @property
    def global_batch(self) -> int:
        """G, samples of one step over all ranks."""
        return self.batch_size * self.world_size

    def batch(self, index: int) -> list[int]:
        """The positions of this rank in batch ``index`` after ``start``."""
        first = self.start + index * self.global_batch + self.rank * self.batch_size
        return list(range(first, first + self.batch_size))

    def __iter__(self) -> Iterator[list[int]]:
        index = 0
        while self.num_batches is None or index < self.num_batches:
            yield self.batch(index)
            index += 1

    def __len__(self) -> int:
        if self.num_batches is None:
            raise TypeError("an endless PositionSampler has no length: set num_batches")
        return self.num_batches

    def state_dict(self, num_batches: int) -> dict[str, int]:
        """Where to go on after ``num_batches`` batches since ``start``.

        The caller counts them: workers of a DataLoader ask for batches before training has seen them.
        """
        return {"position": self.start + num_batches * self.global_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on where ``state_dict`` said, whatever the number of ranks now."""
        self.start = int(state["position"])


class EpochOrder:
    """An endless order of ``length`` indices: a new permutation every epoch, each a function of (seed, epoch).

    Args:
        length: Number of indices, at least 1.
        seed: Not negative.

    Raises:
        DataError: nothing to order, or a negative seed.
    """

    def __init__(self, length: int, seed: int = 0) -> None:
        if length < 1 or seed < 0:
            raise DataError(
                f"length={length}, seed={seed}: an order needs at least one index and a seed that is not negative"
            )
        self.length, self.seed = length, seed
        self._epoch, self._permutation = -1, np.arange(0)

    def __getitem__(self, position: int) -> int:
        """The index at a position >= 0."""
        if position < 0:
            raise IndexError(f"position {position} is negative: positions count from 0")
        epoch, offset = divmod(position, self.length)
        if epoch != self._epoch:
            self._permutation, self._epoch = self.permutation(epoch), epoch
        return int(self._permutation[offset])

    def permutation(self, epoch: int) -> NDArray[np.int64]:
        """The order of one epoch."""
        # raw bits and a stable sort: numpy promises neither shuffle nor permutation to stay as they are
        bits = np.random.PCG64(np.random.SeedSequence([self.seed % _HALF, self.seed // _HALF, epoch]))
        return np.argsort(bits.random_raw(self.length), kind="stable").astype(np.int64)


class Shuffled(Dataset[Any]):
    """A dataset as an endless stream: ``shuffled[position]`` for any position >= 0, in ``EpochOrder``.

    Args:
        dataset: Map-style, with a length.
        seed: Of the order.

    Raises:
        DataError: an empty dataset.
    """

    def __init__(self, dataset: Dataset[Any], seed: int = 0) -> None:
        if not isinstance(dataset, Sized):
            raise DataError(f"{type(dataset).__name__} has no length: shuffle a map-style dataset")
        self.dataset = dataset
        self.order = EpochOrder(len(dataset), seed)

    def __getitem__(self, position: int) -> Any:
        return self.dataset[self.order[position]]
