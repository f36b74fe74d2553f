"""The bar that long jobs show: images and tokens a second, what was skipped, and the time that is left."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any


class Progress:
    """A bar on stderr, which appears with the first images and is wiped away by an error: only its message stays.

    Args:
        total: Images of the whole job.
        done: Images that an earlier run did; they count as done and not towards the speed.
        what: Word in front of the bar.
        shown: False gives no bar and counts all the same.
    """

    def __init__(self, total: int, done: int = 0, what: str = "encode", shown: bool = True) -> None:
        self.images, self.tokens, self._skipped = 0, 0, 0
        self._start = time.monotonic()
        self._total, self._done, self._what, self._shown = total, done, what, shown
        self._bar: Any = None

    @property
    def seconds(self) -> float:
        """Time since it began."""
        return time.monotonic() - self._start

    def advance(self, images: int, tokens: int = 0) -> None:
        """Counts what was done."""
        self.images += images
        self.tokens += tokens
        if not self._shown:
            return
        if self._bar is None:
            self._bar = self._opened()
        rate = self.tokens / max(self.seconds, 1e-9)
        told = f"{rate:,.0f} tokens/s" if self.tokens else ""
        told += f", {self._skipped} skipped" if self._skipped else ""
        self._bar.set_postfix_str(told, refresh=False)
        self._bar.update(images)

    def skipped(self, count: int) -> None:
        """States how many images have been left out so far."""
        self._skipped = count

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.leave = kind is None
            self._bar.close()

    def _opened(self) -> Any:
        from tqdm import tqdm

        bar = tqdm(
            total=self._total,
            initial=self._done,
            desc=self._what,
            unit=" images",
            mininterval=0.3,
            dynamic_ncols=True,
        )
        bar.start_t -= self.seconds  # the first images took time before there was a bar
        return bar
