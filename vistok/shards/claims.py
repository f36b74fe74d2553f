"""Who may write in an output directory: one run of all of it, or jobs of an array, each with its own slice of the shards."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vistok.errors import ShardError
from vistok.shards.commit import is_held, locked
from vistok.shards.plan import Plan

LOCK_PREFIX = ".vistok-lock"
ACTORS_SECONDS = 60.0
SETUP_SECONDS = 900.0
_SLICE_LOCK = re.compile(re.escape(LOCK_PREFIX) + r"-(\d+)-of-(\d+)")
_SHARD_FILE = re.compile(r"shard-(\d{6,})\.")
_SAMPLE_FILE = re.compile(r"(\d{9,})\.")


@dataclass(frozen=True)
class Slice:
    """The share of one job of an array: every shard whose number is ``index`` modulo ``count``.

    Args:
        index: In [0, count).
        count: Jobs of the array; 1 is a run of everything.

    Raises:
        ShardError: other numbers.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ShardError(
                f"job {self.index} of {self.count} does not exist: the first is 0 and the last {self.count - 1}, "
                "and there is at least one job"
            )

    @property
    def is_whole(self) -> bool:
        """Whether it is a run of everything."""
        return self.count == 1

    def shards(self, plan: Plan) -> range:
        """Its shards."""
        return range(self.index, plan.num_shards, self.count)

    def num_samples(self, plan: Plan) -> int:
        """Samples of its shards."""
        return sum(len(plan.numbers(shard)) for shard in self.shards(plan))

    def owns(self, name: str, shard_size: int) -> bool:
        """Whether a file is this job's to write: a shard of it, a record, a quarantined image. Others are everybody's."""
        if match := _SHARD_FILE.match(name):
            return int(match.group(1)) % self.count == self.index
        if match := _SAMPLE_FILE.match(name):
            return int(match.group(1)) // shard_size % self.count == self.index
        return True

    def __str__(self) -> str:
        return f"job {self.index} of {self.count}"


ALL = Slice()


def lock_path(out: Path, part: Slice) -> Path:
    """The lock that only one process may hold for a slice, or for the whole directory."""
    return out / (LOCK_PREFIX if part.is_whole else f"{LOCK_PREFIX}-{part.index}-of-{part.count}")


def actors_lock_path(out: Path, part: Slice) -> Path:
    """The lock that actors share while they write for a run, which they may outlive by a moment."""
    suffix = "" if part.is_whole else f"-{part.index}-of-{part.count}"
    return out / f"{LOCK_PREFIX}-actors{suffix}"


def lock_files(out: Path) -> list[Path]:
    """All lock files of a directory."""
    return sorted(out.glob(LOCK_PREFIX + "*"))


@contextlib.contextmanager
def setting_up(out: Path, part: Slice) -> Iterator[None]:
    """Jobs of an array describe, measure and index one after the other; a run of everything is alone anyway.

    Raises:
        ShardError: another job does not finish with it.
    """
    if part.is_whole:
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(out / f"{LOCK_PREFIX}-setup", wait=SETUP_SECONDS))
        except BlockingIOError:
            raise ShardError(f"{out}: another job has been setting up for too long: end it") from None
        yield


@contextlib.contextmanager
def claimed(out: Path, part: Slice) -> Iterator[None]:
    """Holds a directory, or one slice of it beside the jobs of the other slices. A job calls it in ``setting_up``.

    A run of everything holds the directory's lock alone; jobs share it, and each holds the lock of its slice alone.

    Raises:
        ShardError: another process holds it; the message names what that process is.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(out / LOCK_PREFIX, shared=not part.is_whole))
        except BlockingIOError:
            raise ShardError(_refusal(out, part)) from None
        if not part.is_whole:
            _refuse_other_arrays(out, part)
            try:
                stack.enter_context(locked(lock_path(out, part)))
            except BlockingIOError:
                raise ShardError(
                    f"{part} is running in {out} already: give each job an index of its own"
                ) from None
        _wait_for_actors(out, part)
        yield


def other_jobs(out: Path, part: Slice) -> list[Slice]:
    """The jobs that are running beside this one."""
    found = []
    for path in lock_files(out):
        match = _SLICE_LOCK.fullmatch(path.name)
        if match is None or path == lock_path(out, part):
            continue
        if is_held(path):
            found.append(Slice(int(match.group(1)), int(match.group(2))))
    return found


def _refusal(out: Path, part: Slice) -> str:
    if not part.is_whole:
        return f"{out} is being written by another process, by a run of all shards: {part} must wait for it"
    jobs = other_jobs(out, part)
    who = f", by {jobs[0]}" if jobs else ""
    return f"{out} is being written by another process{who}: wait for it, or give another directory"


def _refuse_other_arrays(out: Path, part: Slice) -> None:
    for job in other_jobs(out, part):
        if job.count != part.count:
            raise ShardError(
                f"{out} is being written by {job}, whose shards overlap those of {part}: "
                "use one number of jobs, or wait for it"
            )


def _wait_for_actors(out: Path, part: Slice) -> None:
    """Actors of a driver that was killed live on for a moment: what they write may not cross what we write."""
    for path in out.glob(f"{LOCK_PREFIX}-actors*"):
        match = re.fullmatch(r".*-(\d+)-of-(\d+)", path.name)
        if match and int(match.group(2)) == part.count and path != actors_lock_path(out, part):
            continue  # of another job of this array, which may well be running
        try:
            with locked(path, wait=ACTORS_SECONDS):
                pass
        except BlockingIOError:
            raise ShardError(
                f"{out} is being written by actors of another run: end them, or wait for them"
            ) from None
