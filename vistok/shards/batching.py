"""Batches of equal-sized things from a sequence of mixed ones, the same batches every time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

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
    waiting: dict[Hashable, list[T]] = {}
    count = 0
    for item in items:
        size = size_of(item)
        batch = waiting.setdefault(size, [])
        batch.append(item)
        count += 1
        if len(batch) == batch_size:
            yield waiting.pop(size)
            count -= batch_size
        elif count >= MAX_WAITING_BATCHES * batch_size:
            # dicts keep the order of insertion: the first is the one that has waited longest
            oldest = waiting.pop(next(iter(waiting)))
            count -= len(oldest)
            yield oldest
    yield from waiting.values()
