"""Batches of equal-sized things from a sequence of mixed ones, the same batches every time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_WAITING_BATCHES = 4


def same_size_batches(
    items: Iterable[T], size_of: Callable[[T], Hashable], batch_size: int
) -> Iterator[list[T]]:
    """Groups items of equal size into batches, each batch in the order of the input.

    A batch is given when it is full. So that memory stays bounded with many sizes, the batch that has waited longest
    is given short once ``MAX_WAITING_BATCHES * batch_size`` items wait. The composition depends on the order of the
    items, their sizes and ``batch_size`` alone: float sums, and so ties, come out the same in every run.
    """
    batches = SameSizeBatches(size_of, batch_size)
    for item in items:
        yield from batches.add(item)
    yield from batches.rest()


class SameSizeBatches(Generic[T]):
    """The same, one item at a time, for who has something else to do between two batches."""

    def __init__(self, size_of: Callable[[T], Hashable], batch_size: int) -> None:
        self._size_of, self._batch_size = size_of, batch_size
        self._waiting: dict[Hashable, list[T]] = {}
        self._count = 0

    def add(self, item: T) -> Iterator[list[T]]:
        """Takes an item; gives the batch that is due with it, if one is."""
        size = self._size_of(item)
        batch = self._waiting.setdefault(size, [])
        batch.append(item)
        self._count += 1
        # dicts keep the order of insertion: the first is the one that has waited longest
        if len(batch) == self._batch_size:
            due = size
        elif self._count >= MAX_WAITING_BATCHES * self._batch_size:
            due = next(iter(self._waiting))
        else:
            return
        given = self._waiting.pop(due)
        self._count -= len(given)
        yield given

    def rest(self) -> Iterator[list[T]]:
        """Gives what still waits."""
        while self._waiting:
            yield self._waiting.pop(next(iter(self._waiting)))
        self._count = 0
