"""What a driver knows of its actors and of what they have made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from vistok.errors import ShardError
from vistok.shards.job import Job
from vistok.shards.progress import Progress
from vistok.shards.sidecar import read_committed

POLL_SECONDS = 0.2


class Crew:
    """Actors, each with the shards that it has been given; those that die are replaced.

    Only an actor that has answered is given any: one that the cluster has no room for would keep them for ever.
    """

    def __init__(self, ray: Any, make: Callable[[], Any], num_actors: int) -> None:
        self._ray, self._make = ray, make
        self.idle: list[Any] = []
        self.size, self.most_ready = num_actors, 0
        self.busy: dict[Any, tuple[Any, list[int]]] = {}
        self._coming: dict[Any, Any] = {}
        for _ in range(num_actors):
            self._start()

    def give(self, shards: list[int]) -> None:
        """Gives shards to an idle actor."""
        actor = self.idle.pop()
        self.busy[actor.make.remote(shards)] = (actor, shards)

    def finished(self) -> list[tuple[Any, list[int]]]:
        """Takes the answers that have come within ``POLL_SECONDS``, with the shards that each is about.

        An actor that has started, or failed to, answers too, and about no shards.
        """
        done, _ = self._ray.wait([*self.busy, *self._coming], num_returns=1, timeout=POLL_SECONDS)
        answers = [(answer, self._freed(answer)) for answer in done]
        self.most_ready = max(self.most_ready, len(self.idle) + len(self.busy))
        return answers

    def replace_last(self) -> None:
        """Puts a new actor in the place of the one that became idle last."""
        self._ray.kill(self.idle.pop())
        self._start()

    def dismiss(self) -> None:
        """Ends all actors, whatever they do."""
        for actor in [*self.idle, *self._coming.values(), *(actor for actor, _ in self.busy.values())]:
            with contextlib.suppress(Exception):
                self._ray.kill(actor)

    def _start(self) -> None:
        actor = self._make()
        self._coming[actor.ready.remote()] = actor

    def _freed(self, answer: Any) -> list[int]:
        actor, shards = self.busy.pop(answer) if answer in self.busy else (self._coming.pop(answer), [])
        self.idle.append(actor)
        return shards


class Watch:
    """Sees on the disk which of the shards that were given out are committed, tells the bar, and counts what was skipped."""

    def __init__(self, job: Job, bar: Progress) -> None:
        self._job, self._bar = job, bar
        self._expected: dict[int, None] = {}
        self._seen: set[int] = set()
        self._skipped = job.num_skipped
        self.count = 0
        """Shards seen so far."""

    def has(self, shard: int) -> bool:
        """Whether a shard has been seen."""
        return shard in self._seen

    def expect(self, shards: Iterable[int]) -> None:
        """Shards that are being made from now on: only these are looked for."""
        self._expected.update(dict.fromkeys(shards))

    def look(self) -> None:
        """Looks for new ones.

        Raises:
            ShardError: more images were skipped than the run allows.
        """
        output = self._job.output
        for shard in list(self._expected):
            record = read_committed(output.out, shard, output.fingerprint)
            if record is None:
                continue
            del self._expected[shard]
            self._seen.add(shard)
            self.count += 1
            self._skipped += len(record.skipped)
            self._bar.skipped(self._skipped)
            self._bar.advance(record.n_in, record.num_tokens)
        num_samples = output.part.num_samples(output.plan)
        if self._skipped > self._job.max_error_rate * num_samples:
            raise ShardError(
                f"{self._skipped} of {num_samples} images cannot be encoded, more than max_error_rate="
                f"{self._job.max_error_rate:g} (--max-error-rate) allows; the records of the shards tell why"
            )
