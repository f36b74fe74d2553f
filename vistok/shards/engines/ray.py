"""Encodes on a Ray cluster: actors are given numbers of shards, and each commits its own."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vistok.errors import ShardError, VistokError
from vistok.shards.claims import actors_lock_path, setting_up
from vistok.shards.commit import locked, remove_debris
from vistok.shards.engines.crew import Crew, Watch
from vistok.shards.engines.local import LocalEngine
from vistok.shards.fingerprint import tokenizer_device
from vistok.shards.job import Job
from vistok.shards.loading import reason_of
from vistok.shards.progress import Progress

MOST_SHARDS_AT_ONCE = 8
DEATHS_IN_A_ROW = 3
PATIENCE_SECONDS = 60.0
_LEAVE_SECONDS = 60.0


class RayEngine:
    """One model an actor.

    Neither images nor tokens travel: an actor reads its images and writes its shards itself, so it needs the dataset's
    files and the output directory under the same paths as the driver. What the disk holds is the only truth: a shard is
    done when its record is there, and the shards of an actor that died are given to another one, with the same result.

    Args:
        address: Of a cluster; None starts one on this machine for the run, or uses the one that the program is connected
            to already.
        num_actors: Models at once, at most one a shard; None for as many as the cluster's GPUs hold, or its CPUs where no
            GPU is asked for. The run begins with the first that has started, and goes on with those that the cluster has
            room for.
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
            ShardError: Ray is not installed, its cluster cannot be reached or can hold no actor, images that cannot be
                encoded, or actors that die again and again.
        """
        with _cluster(self.address) as ray:
            gpus = self.gpus_per_actor
            if gpus is None:
                gpus = 1.0 if tokenizer_device(job.tokenizer).type == "cuda" else 0.0
            num_actors = min(_fitting(ray, gpus, self.num_actors), max(1, len(shards)))
            # an actor tells of its own shards only: what the run may skip in all is counted here
            own = dataclasses.replace(
                job,
                tokenizer=_on_cpu(job.tokenizer),
                output=dataclasses.replace(job.output, out=job.output.out.absolute()),
                max_error_rate=1.0,
                num_skipped=0,
            )
            stored, here = ray.put(own), str(Path.cwd())
            make = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(ShardActor)
            crew = Crew(ray, lambda: make.remote([stored], gpus > 0, self.workers, here), num_actors)
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
        folder: Working directory of the driver, to which the paths of a dataset may be relative.
    """

    def __init__(self, stored: list[Any], on_gpu: bool, workers: int, folder: str) -> None:
        import ray

        with contextlib.suppress(
            OSError
        ):  # a machine without it can still have the files, if their paths are absolute
            os.chdir(folder)
        job: Job = ray.get(stored[0])
        self._job = dataclasses.replace(job, tokenizer=job.tokenizer.cuda()) if on_gpu else job
        self._engine = LocalEngine(workers)

    def ready(self) -> tuple[float, str]:
        """Answers once the actor has its place and its model, like a call that made no shards."""
        return 0.0, ""

    def make(self, shards: list[int]) -> tuple[float, str]:
        """Makes some shards; returns the seconds that the model ran, and what the user must know if it did not end well."""
        output = self._job.output
        try:
            # a run that starts after the death of our driver waits until we have ended
            with locked(actors_lock_path(output.out, output.part), shared=True):
                return self._engine.run(self._job, shards, Progress(0, shown=False)), ""
        except (VistokError, OSError) as error:
            return 0.0, reason_of(error)


def _drive(ray: Any, crew: Crew, job: Job, shards: Sequence[int], bar: Progress) -> float:
    todo, watch = collections.deque(shards), Watch(job, bar)
    at_once = max(1, min(MOST_SHARDS_AT_ONCE, len(shards) // (4 * crew.size)))
    seconds, deaths, start, told = 0.0, 0, time.monotonic(), False
    while todo or crew.busy:
        while todo and crew.idle:
            given = [todo.popleft() for _ in range(min(at_once, len(todo)))]
            watch.expect(given)
            crew.give(given)
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
            deaths = 0 if given else deaths
        watch.look()
        if not (told or crew.most_ready) and time.monotonic() - start > PATIENCE_SECONDS:
            told = True
            free = ray.available_resources()
            warnings.warn(
                f"no actor has started for {PATIENCE_SECONDS:.0f} s: the Ray cluster has {free.get('CPU', 0):g} CPUs and "
                f"{free.get('GPU', 0):g} GPUs free; waiting for others to end",
                stacklevel=2,
            )
    missing = [shard for shard in shards if not watch.has(shard)]
    if missing:
        raise ShardError(
            f"actors say that shard {missing[0]} is written, and {job.output.out} does not have it: the directory "
            "must be the same one, under the same path, on every machine of the cluster"
        )
    return seconds / max(1, crew.most_ready)


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


def _fitting(ray: Any, gpus: float, asked: int | None) -> int:
    """How many actors to start: as many as were asked for, or as the cluster holds.

    Raises:
        ShardError: it can never hold even one.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = 0
    for machine in machines:
        places = int(machine.get("CPU", 0))
        room += min(places, int(machine.get("GPU", 0) / gpus)) if gpus else places
    if room:
        return asked or room
    if gpus:
        most = max((machine.get("GPU", 0) for machine in machines), default=0)
        raise ShardError(
            f"no machine of the Ray cluster has the 1 CPU and {gpus:g} GPU that an actor needs, at most {most:g} GPU: "
            "lower gpus_per_actor (--gpus-per-actor; 0 encodes on CPUs), or add a machine that has them"
        )
    raise ShardError(
        "no machine of the Ray cluster has the 1 CPU that an actor needs: start it with CPUs, as by `ray start --num-cpus 1`"
    )


def _on_cpu(tokenizer: Any) -> Any:
    """Where it can be stored; an actor brings it to its own device."""
    import copy

    return tokenizer if tokenizer_device(tokenizer).type == "cpu" else copy.deepcopy(tokenizer).cpu()


def _clean_up(job: Job) -> None:
    """Waits until no actor writes any more, then removes what those that were ended left half-written."""
    output = job.output
    with (
        contextlib.suppress(BlockingIOError, ShardError),
        locked(actors_lock_path(output.out, output.part), wait=_LEAVE_SECONDS),
        setting_up(output.out, output.part),
    ):
        remove_debris(output.out, lambda name: output.part.owns(name, output.plan.shard_size))
        actors_lock_path(output.out, output.part).unlink(missing_ok=True)
