"""The bar that long jobs show: images and tokens a second, what was skipped, and the time that is left."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

LOG_SECONDS = 10.0
_UNIT = " images"


class Progress:
    """A bar on stderr, which appears with the first images and is wiped away by an error: only its message stays.

    Where stderr is no terminal, such as in a log, a line every 10 s and one at the end stand for the bar.

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
        if not sys.stderr.isatty():
            return _LogLines(self._total, self._done, self._what, self._start)
        from tqdm import tqdm

        bar = tqdm(
            total=self._total,
            initial=self._done,
            desc=self._what,
            unit=_UNIT,
            mininterval=0.3,
            dynamic_ncols=True,
        )
        bar.start_t -= self.seconds  # the first images took time before there was a bar
        return bar


class _LogLines:
    """What ``Progress`` asks of a bar, as lines that stay."""

    def __init__(self, total: int, done: int, what: str, start: float) -> None:
        self.leave = True
        self._total, self._initial, self._done, self._what, self._start = total, done, done, what, start
        self._latest, self._postfix = start, ""

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        self._postfix = text

    def update(self, images: int) -> None:
        self._done += images
        if time.monotonic() - self._latest >= LOG_SECONDS:
            self._print()

    def close(self) -> None:
        if self.leave:
            self._print()

    def _print(self) -> None:
        from tqdm import tqdm

        self._latest = time.monotonic()
        line = tqdm.format_meter(
            self._done,
            self._total,
            self._latest - self._start,
            prefix=self._what,
            ascii=True,
            unit=_UNIT,
            initial=self._initial,
            postfix=self._postfix,
        )
        print(line, file=sys.stderr, flush=True)
