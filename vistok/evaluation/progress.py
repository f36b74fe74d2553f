"""The bar that an evaluation shows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def counting(total: int, shown: bool, what: str = "evaluate") -> Iterator[Callable[[int], None]]:
    """Gives a function that counts images on a bar on stderr.

    The bar appears with the first images and is wiped away by an error, so that only the error's message stays.

    Args:
        total: Images of the whole job.
        shown: False counts nothing.
        what: Is being done.
    """
    bar: Any = None

    def count(images: int) -> None:
        nonlocal bar
        if not shown:
            return
        if bar is None:
            from tqdm import tqdm

            bar = tqdm(total=total, desc=what, unit="image")
        bar.update(images)

    try:
        yield count
    except BaseException:
        if bar is not None:
            bar.leave = False
        raise
    finally:
        if bar is not None:
            bar.close()
