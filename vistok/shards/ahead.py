"""An iterator that runs ahead of whoever reads it, in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.1
_LEAVE_SECONDS = 2.0


def ahead(items: Iterable[T], count: int) -> Generator[T, None, None]:
    """The same items, up to ``count`` of which are fetched before they are asked for; an exception comes in its place.

    The thread starts with the first item and ends with the generator, or at the end of the fetch that it is at.
    """
    waiting: queue.Queue[T | _Raised | _End] = queue.Queue(count)
    stopped = threading.Event()

    def put(item: T | _Raised | _End) -> None:
        while not stopped.is_set():
            try:
                return waiting.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue

    def fetch() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
            put(_End())
        except BaseException as error:  # it is the reader's, whatever it is
            put(_Raised(error))

    thread = threading.Thread(target=fetch, name="vistok-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item = waiting.get()
            if isinstance(item, _End):
                return
            if isinstance(item, _Raised):
                raise item.error
            yield item
    finally:
        stopped.set()
        thread.join(_LEAVE_SECONDS)


class _End:
    pass


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error
