"""Engines make shards. Whichever one, with any number of workers and after any interruption: the same bytes.

An engine is given the numbers of shards of an immutable plan. It commits each by ``ShardWriter`` and keeps nothing
between shards, so that a shard may be made by anyone, at any time, twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vistok.shards.engines.local import LocalEngine
from vistok.shards.job import Job
from vistok.shards.progress import Progress

__all__ = ["Engine", "LocalEngine"]


class Engine(Protocol):
    """What ``encode`` asks of an engine."""

    def run(self, job: Job, shards: Sequence[int], bar: Progress) -> float:
        """Commits all of the shards, or raises; what is committed by then stays.

        Args:
            job: The run.
            shards: Numbers of shards, each once.
            bar: Told of images, tokens and failures as they come.

        Returns:
            Seconds that the model ran, on average over processes that run one.
        """
        ...
