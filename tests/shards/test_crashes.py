"""What is on the disk after a run died: whole shards or none, and the next run ends with the same bytes."""

import contextlib
import errno
import functools
import gc
import itertools
import os
import random
import resource
import signal

import pytest

from tests.shards.conftest import ended, forked, killed_after, named, tree, wait_for
from vistok import shards
from vistok.errors import ShardError
from vistok.shards.claims import ALL, lock_path
from vistok.shards.commit import locked

OPTIONS = {"batch_size": 2, "shard_size": 4, "progress": False}
CALLS = ("write", "fsync", "replace")


def assert_whole(out, whole):
    """Every visible file of a dead run has its final bytes."""
    for name, data in tree(out).items():
        if not name.startswith("."):
            assert whole[name] == data, name


@pytest.fixture(scope="module")
def whole(tokenizer, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    shards.encode(tokenizer, named(6), out, **OPTIONS)
    return tree(out)


@contextlib.contextmanager
def watched(on_call):
    """Calls ``on_call(count, name, args)`` before each write, sync and replace."""
    counter = itertools.count(1)

    def watching(name, original):
        def call(*args):
            on_call(next(counter), name, args)
            return original(*args)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, watching(name, getattr(os, name)))
        yield


def count_calls(tokenizer, out):
    seen = []
    with watched(lambda count, name, args: seen.append(name)):
        shards.encode(tokenizer, named(6), out, **OPTIONS)
    assert set(seen) == set(CALLS)
    return len(seen)


def test_a_crash_at_any_write_sync_or_replace_is_mended_by_the_next_run(tokenizer, tmp_path, whole):
    def run_dying_at(k, out):
        write = os.write

        def die(count, name, args):
            if count == k:
                if name == "write":
                    write(args[0], bytes(args[1])[: len(args[1]) // 2])
                os._exit(9)

        with watched(die):
            shards.encode(tokenizer, named(6), out, **OPTIONS)

    for k in range(1, count_calls(tokenizer, tmp_path / "count") + 1):
        out = tmp_path / str(k)
        assert ended(forked(functools.partial(run_dying_at, k, out))) == 9
        assert_whole(out, whole)
        shards.encode(tokenizer, named(6), out, **OPTIONS)
        assert tree(out) == whole


def test_a_disk_that_fills_at_any_write_sync_or_replace_is_told_in_one_line(tokenizer, tmp_path, whole):
    def fail_at(k, count, name, args):
        if count == k:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for k in range(1, count_calls(tokenizer, tmp_path / "count") + 1):
        out = tmp_path / str(k)
        with (
            watched(functools.partial(fail_at, k)),
            pytest.raises(ShardError, match="No space left on device; finished shards are kept") as raised,
        ):
            shards.encode(tokenizer, named(6), out, **OPTIONS)
        assert "\n" not in str(raised.value)
        assert_whole(out, whole)
        shards.encode(tokenizer, named(6), out, **OPTIONS)
        assert tree(out) == whole


@pytest.mark.parametrize(("container", "suffix", "size"), [("tar", "tar", 16), ("arrow", "arrow", 256)])
def test_a_limit_on_file_size_is_told_and_commits_nothing_short(tokenizer, tmp_path, container, suffix, size):
    out, said = tmp_path / "out", tmp_path / "said"

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        try:
            shards.encode(tokenizer, named(6, size=size), out, container=container, **OPTIONS)
        except ShardError as error:
            said.write_text(str(error))

    assert ended(forked(work)) == 0
    assert "File too large" in said.read_text()
    assert not list(out.glob("shard-*"))
    shards.encode(tokenizer, named(6, size=size), out, container=container, **OPTIONS)
    assert shards.verify(out).ok
    assert min(path.stat().st_size for path in out.glob(f"shard-*0.{suffix}")) > 5000


def kill_and_resume(tokenizer, tmp_path, kills):
    images = named(40, delay=0.002)
    shards.encode(tokenizer, images, tmp_path / "whole", **OPTIONS)
    whole = tree(tmp_path / "whole")
    dice = random.Random(0)
    for attempt in range(kills):
        out = tmp_path / str(attempt)
        for _ in range(2):
            killed_after(
                lambda out=out: shards.encode(tokenizer, images, out, **OPTIONS), dice.uniform(0, 0.4)
            )
            assert_whole(out, whole)
        shards.encode(tokenizer, images, out, **OPTIONS)
        assert tree(out) == whole


def test_runs_killed_at_random_times_end_with_the_same_bytes(tokenizer, tmp_path):
    kill_and_resume(tokenizer, tmp_path, 5)


@pytest.mark.slow
def test_fifty_runs_killed_at_random_times_end_with_the_same_bytes(tokenizer, tmp_path):
    kill_and_resume(tokenizer, tmp_path, 50)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_word_of_what_is_kept(tokenizer, tmp_path, number):
    out, said = tmp_path / "out", tmp_path / "said"

    def work():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            shards.encode(tokenizer, named(400, delay=0.01), out, **OPTIONS)
        except shards.EncodingInterrupted as stop:
            said.write_text(str(stop))

    pid = forked(work)
    wait_for(out / "shard-000001.json")
    os.kill(pid, number)
    assert ended(pid) == 0
    kept = len(list(out.glob("shard-*.json")))
    assert f"stopped: {kept} of 100 shards" in said.read_text()
    assert "run the same again" in said.read_text()
    assert len(list(out.glob("shard-*.arrow"))) in (kept, kept + 1)
    assert not list(out.glob(".vistok-temp-*"))


def test_a_second_process_on_the_same_directory_is_refused_in_one_line(tokenizer, tmp_path):
    out = tmp_path / "out"
    pid = forked(lambda: shards.encode(tokenizer, named(400, delay=0.01), out, **OPTIONS))
    try:
        wait_for(out / "plan.json")
        with pytest.raises(ShardError, match="is being written by another process") as raised:
            shards.encode(tokenizer, named(400), out, **OPTIONS)
        assert "\n" not in str(raised.value)
    finally:
        os.kill(pid, signal.SIGKILL)
        ended(pid)
    with locked(lock_path(out, ALL)):
        pass


def test_a_worker_left_over_from_a_dead_run_does_not_hold_the_lock(tmp_path):
    ready = tmp_path / "ready"

    def work():
        with locked(tmp_path / "lock"):
            worker = forked(lambda: signal.pause())
            ready.write_text(str(worker))
            signal.pause()

    pid = forked(work)
    wait_for(ready)
    while not ready.read_text():
        pass
    os.kill(pid, signal.SIGKILL)
    ended(pid)
    try:
        with locked(tmp_path / "lock"):
            pass
    finally:
        os.kill(int(ready.read_text()), signal.SIGKILL)


def test_a_killed_worker_is_reported(tokenizer, tmp_path):
    images = named(8, broken={"image_0005": lambda: os.kill(os.getpid(), signal.SIGKILL)})
    said = tmp_path / "said"

    def work():
        # torch raises from a signal handler, and what is raised within a garbage collection is lost
        gc.disable()
        try:
            shards.encode(tokenizer, images, tmp_path / "out", workers=1, **OPTIONS)
        except ShardError as error:
            said.write_text(str(error))

    assert ended(forked(work)) == 0
    assert "a process that reads images died" in said.read_text()
    assert not (tmp_path / "out" / "shard-000001.arrow").exists()


def test_debris_of_a_dead_run_is_removed(tokenizer, tmp_path, whole):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".vistok-temp-shard-000000.arrow").write_bytes(b"half")
    shards.encode(tokenizer, named(6), out, **OPTIONS)
    assert tree(out) == whole
