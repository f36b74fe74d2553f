"""Encodes on a Ray cluster: actors are given numbers of shards, and each commits its own."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from vistok.errors import ShardError, VistokError
from vistok.shards.claims import actors_lock_path
from vistok.shards.commit import locked, remove_debris
from vistok.shards.engines.local import LocalEngine
from vistok.shards.fingerprint import tokenizer_device
from vistok.shards.job import Job
from vistok.shards.loading import reason_of
from vistok.shards.progress import Progress
from vistok.shards.sidecar import read_committed

POLL_SECONDS = 0.2
MOST_SHARDS_AT_ONCE = 8
DEATHS_IN_A_ROW = 3
_LEAVE_SECONDS = 60.0


class RayEngine:
    """One model an actor.

    Neither images nor tokens travel: an actor reads its images and writes its shards itself, so it needs the dataset's
    files and the output directory under the same paths as the driver. What the disk holds is the only truth: a shard is
    done when its record is there, and the shards of an actor that died are given to another one, with the same result.

    Args:
        address: Of a cluster; None starts one on this machine for the run, or uses the one that the program is connected
            to already.
        num_actors: Models at once; None for one a GPU, or one where none is asked for.
        gpus_per_actor: Share of a GPU for each; None for 1 where the tokenizer is on a GPU, else 0.
        workers: Processes of each actor that read images; 0 reads in the actor.
    """

    def __init__(
        self,
        address: str | None = None,
        num_actors: int | None = None,
        gpus_per_actor: float | None = None,
        workers: int = 0,
    ) -> None:
        self.address, self.num_actors = address, num_actors
        self.gpus_per_actor, self.workers = gpus_per_actor, workers

    def run(self, job: Job, shards: Sequence[int], bar: Progress) -> float:
        """Commits all of the shards, in any order; see ``Engine``.

        Raises:
            ShardError: Ray is not installed or its cluster cannot be reached, images that cannot be encoded, or actors
                that die again and again.
        """
        with _cluster(self.address) as ray:
            gpus = self.gpus_per_actor
            if gpus is None:
                gpus = 1.0 if tokenizer_device(job.tokenizer).type == "cuda" else 0.0
            num_actors = self.num_actors or _fitting(ray, gpus)
            # an actor tells of its own shards only: what the run may skip in all is counted here
            own = dataclasses.replace(
                job, tokenizer=_on_cpu(job.tokenizer), max_error_rate=1.0, num_skipped=0
            )
            stored = ray.put(own)
            make = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(ShardActor)
            crew = _Crew(ray, lambda: make.remote([stored], gpus > 0, self.workers), num_actors)
            try:
                return _drive(ray, crew, job, shards, bar)
            finally:
                crew.dismiss()
                _clean_up(job)


class ShardActor:
    """Holds a model and makes shards.

    Args:
        stored: Reference to the job, in a list so that Ray leaves it to the actor to fetch it.
        on_gpu: Whether the model goes to this actor's GPU.
        workers: Processes that read images.
    """

    def __init__(self, stored: list[Any], on_gpu: bool, workers: int) -> None:
        import ray

        job: Job = ray.get(stored[0])
        self._job = dataclasses.replace(job, tokenizer=job.tokenizer.cuda()) if on_gpu else job
        self._engine = LocalEngine(workers)

    def make(self, shards: list[int]) -> tuple[float, str]:
        """Makes some shards; returns the seconds that the model ran, and what the user must know if it did not end well."""
        output = self._job.output
        try:
            # a run that starts after the death of our driver waits until we have ended
            with locked(actors_lock_path(output.out, output.part), shared=True):
                return self._engine.run(self._job, shards, Progress(0, shown=False)), ""
        except (VistokError, OSError) as error:
            return 0.0, reason_of(error)


class _Crew:
    """Actors, each with the shards that it has been given; those that die are replaced."""

    def __init__(self, ray: Any, make: Any, num_actors: int) -> None:
        self._ray, self._make = ray, make
        self.idle = [make() for _ in range(num_actors)]
        self.size = num_actors
        self.busy: dict[Any, tuple[Any, list[int]]] = {}

    def give(self, shards: list[int]) -> None:
        """Gives shards to an idle actor."""
        actor = self.idle.pop()
        self.busy[actor.make.remote(shards)] = (actor, shards)

    def finished(self) -> list[tuple[Any, list[int]]]:
        """Takes the answers that have come within ``POLL_SECONDS``, with the shards that each is about."""
        done, _ = self._ray.wait(list(self.busy), num_returns=1, timeout=POLL_SECONDS)
        return [(answer, self._freed(answer)) for answer in done]

    def replace_last(self) -> None:
        """Puts a new actor in the place of the one that became idle last."""
        self._ray.kill(self.idle.pop())
        self.idle.append(self._make())

    def dismiss(self) -> None:
        """Ends all actors, whatever they do."""
        for actor in [*self.idle, *(actor for actor, _ in self.busy.values())]:
            with contextlib.suppress(Exception):
                self._ray.kill(actor)

    def _freed(self, answer: Any) -> list[int]:
        actor, shards = self.busy.pop(answer)
        self.idle.append(actor)
        return shards


def _drive(ray: Any, crew: _Crew, job: Job, shards: Sequence[int], bar: Progress) -> float:
    todo, watch = collections.deque(shards), _Watch(job, shards, bar)
    at_once = max(1, min(MOST_SHARDS_AT_ONCE, len(shards) // (4 * crew.size)))
    seconds, deaths = 0.0, 0
    while todo or crew.busy:
        while todo and crew.idle:
            crew.give([todo.popleft() for _ in range(min(at_once, len(todo)))])
        before = watch.count
        for answer, given in crew.finished():
            try:
                took, problem = ray.get(answer)
                seconds += took
            except ray.exceptions.RayError as error:
                watch.look()
                deaths = 1 if watch.count > before else deaths + 1
                if deaths >= DEATHS_IN_A_ROW:
                    raise ShardError(
                        f"{deaths} actors died one after the other: {reason_of(error)}; finished shards are kept, "
                        "run the same again with fewer actors if memory is short"
                    ) from error
                todo.extendleft(shard for shard in reversed(given) if not watch.has(shard))
                crew.replace_last()
                continue
            if problem:
                raise ShardError(problem)
            deaths = 0
        watch.look()
    missing = [shard for shard in shards if not watch.has(shard)]
    if missing:
        raise ShardError(
            f"actors say that shard {missing[0]} is written, and {job.output.out} does not have it: the directory "
            "must be the same one, under the same path, on every machine of the cluster"
        )
    return seconds / crew.size


class _Watch:
    """Sees on the disk which shards have been committed, tells the bar, and counts what was skipped."""

    def __init__(self, job: Job, shards: Sequence[int], bar: Progress) -> None:
        self._job, self._bar = job, bar
        self._open = dict.fromkeys(shards)
        self._skipped = job.num_skipped
        self.count = 0
        """Shards seen so far."""

    def has(self, shard: int) -> bool:
        """Whether a shard has been seen."""
        return shard not in self._open

    def look(self) -> None:
        """Looks for new ones.

        Raises:
            ShardError: more images were skipped than the run allows.
        """
        output = self._job.output
        for shard in list(self._open):
            record = read_committed(output.out, shard, output.fingerprint)
            if record is None:
                continue
            del self._open[shard]
            self.count += 1
            self._skipped += len(record.skipped)
            self._bar.skipped(self._skipped)
            self._bar.advance(record.n_in, record.num_tokens)
        num_samples = output.part.num_samples(output.plan)
        if self._skipped > self._job.max_error_rate * num_samples:
            raise ShardError(
                f"{self._skipped} of {num_samples} images cannot be encoded, more than max_error_rate="
                f"{self._job.max_error_rate:g} allows; the records of the shards tell why"
            )


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise ShardError(
            "--engine ray needs Ray, which is not installed: pip install 'vistok[ray]'"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address or "local",
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:  # Ray raises many kinds, and its own are not among them
        raise ShardError(
            f"the Ray cluster {address or 'on this machine'} cannot be used: {reason_of(error)}"
        ) from error
    if main:
        # Ray has put its own there, which would end the program without a word of what is kept
        signal.signal(signal.SIGTERM, handler if handler is not None else signal.SIG_DFL)
    try:
        yield ray
    finally:
        ray.shutdown()


def _fitting(ray: Any, gpus: float) -> int:
    return max(1, int(ray.cluster_resources().get("GPU", 0) / gpus)) if gpus else 1


def _on_cpu(tokenizer: Any) -> Any:
    """Where it can be stored; an actor brings it to its own device."""
    import copy

    return tokenizer if tokenizer_device(tokenizer).type == "cpu" else copy.deepcopy(tokenizer).cpu()


def _clean_up(job: Job) -> None:
    """Waits until no actor writes any more, then removes what those that were ended left half-written."""
    output = job.output
    with (
        contextlib.suppress(BlockingIOError),
        locked(actors_lock_path(output.out, output.part), wait=_LEAVE_SECONDS),
    ):
        remove_debris(output.out, lambda name: output.part.owns(name, output.plan.shard_size))
        actors_lock_path(output.out, output.part).unlink(missing_ok=True)
