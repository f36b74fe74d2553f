"""The bar on a terminal, and the lines that stand for it in a log."""

import io
import sys

import pytest

from vistok.shards import progress
from vistok.shards.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_every_ten_seconds_and_one_at_the_end(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    with Progress(70, done=10, what="encode") as bar:
        for second in range(60):
            clock[0] = second / 2
            bar.skipped(second // 30)
            bar.advance(1, 4)
    lines = log.getvalue().splitlines()
    assert "\r" not in log.getvalue() and len(lines) == 3
    assert "31/70" in lines[0] and "8 tokens/s" in lines[0]
    assert "70/70" in lines[-1] and "1 skipped" in lines[-1] and "2.03 images/s" in lines[-1]


def test_an_error_adds_no_line_to_a_log(monkeypatch):
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    with pytest.raises(ValueError), Progress(10) as bar:
        bar.advance(5)
        raise ValueError
    assert log.getvalue() == ""


def test_a_terminal_gets_a_bar_that_an_error_wipes_away(monkeypatch):
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    with pytest.raises(ValueError), Progress(10) as bar:
        bar.advance(5)
        raise ValueError
    told = screen.getvalue()
    assert "encode" in told and "\n" not in told and not told.split("\r")[-2].strip()
