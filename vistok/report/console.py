"""What a long command says while it runs: numbered stages, one live bar, one result line each."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any


class Console:
    """Writes stages to stdout; bars go to stderr.

    Args:
        num_stages: How many there will be.
        shown: False says nothing.
    """

    def __init__(self, num_stages: int, shown: bool = True) -> None:
        self.num_stages, self.shown, self._stage = num_stages, shown, 0

    def say(self, text: str = "") -> None:
        """One line."""
        if self.shown:
            print(text, flush=True)

    def stage(self, title: str) -> None:
        """The title of the next stage."""
        self._stage += 1
        self.say(f"\n[{self._stage}/{self.num_stages}] {title}")

    def result(self, text: str) -> None:
        """What a stage found and where to look at it."""
        self.say(f"      {text}")

    def table(self, rows: Sequence[tuple[str, str]]) -> None:
        """Names and values in two columns."""
        width = max(len(name) for name, _ in rows)
        self.say()
        for name, value in rows:
            self.say(f"  {name:<{width}}   {value}")

    def bar(self) -> Bar:
        """A bar for the stage that runs."""
        return Bar(self.shown)


class Bar:
    """A bar that shows which share of a stage is over, and a text.

    On a terminal it is redrawn in place a few times a second; in a log file it is written every 15 seconds.
    """

    def __init__(self, shown: bool = True) -> None:
        self._pause = 0.3 if sys.stderr.isatty() else 15.0
        self._shown, self._last = shown, -self._pause
        self._bar: Any = None

    def show(self, share: float, text: str) -> None:
        """Shows a share in [0, 1], if it is time to."""
        now = time.monotonic()
        if not self._shown or (now - self._last < self._pause and share < 1):
            return
        self._last = now
        if self._bar is None:
            from tqdm import tqdm

            layout = "      {percentage:3.0f}% |{bar:16}| {desc}"
            self._bar = tqdm(
                desc=text,
                initial=share,
                total=1.0,
                bar_format=layout,
                dynamic_ncols=True,
                mininterval=0,
                file=sys.stderr,
            )
        self._bar.n = min(share, 1.0)
        self._bar.set_description_str(text, refresh=False)
        self._bar.refresh()

    def close(self) -> None:
        """Leaves the last line standing."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
