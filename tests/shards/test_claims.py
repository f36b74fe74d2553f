"""Jobs of an array write into one directory at once; whoever would cross them is refused by name."""

import os
import signal

import pytest

from tests.shards.conftest import ended, forked, named, tree, wait_for
from vistok import shards
from vistok.errors import ImageError, ShardError
from vistok.shards import Slice
from vistok.shards.claims import lock_path

OPTIONS = {"batch_size": 2, "shard_size": 4, "progress": False}


def visible(out):
    return {name: data for name, data in tree(out).items() if not name.startswith(".")}


@pytest.fixture(scope="module")
def whole(tokenizer, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    shards.encode(tokenizer, named(22), out, **OPTIONS)
    return tree(out)


def running(tokenizer, out, **options):
    """A run that takes long, in a process of its own."""
    return forked(lambda: shards.encode(tokenizer, named(22, delay=0.3), out, **options, **OPTIONS))


def kill(pid):
    os.kill(pid, signal.SIGKILL)
    ended(pid)


def test_jobs_one_after_the_other_make_the_same_files(tokenizer, tmp_path, whole):
    out = tmp_path / "out"
    for index in (2, 0, 1):
        summary = shards.encode(tokenizer, named(22), out, part=Slice(index, 3), **OPTIONS)
        assert summary.num_shards == 2
        assert (out / "index.json").exists() == (index == 1)
    assert visible(out) == {name: data for name, data in whole.items() if not name.startswith(".")}
    assert not list(out.glob(".vistok-lock-*-of-*"))
    assert shards.verify(out).ok


def test_jobs_at_once_make_the_same_files(tokenizer, tmp_path, whole):
    out = tmp_path / "out"
    pids = [
        forked(lambda i=i: shards.encode(tokenizer, named(22, delay=0.01), out, part=Slice(i, 3), **OPTIONS))
        for i in range(3)
    ]
    assert [ended(pid) for pid in pids] == [0, 0, 0]
    assert visible(out) == {name: data for name, data in whole.items() if not name.startswith(".")}


def test_more_jobs_than_shards_leave_some_with_nothing_to_do(tokenizer, tmp_path):
    out = tmp_path / "out"
    for index in range(3):
        summary = shards.encode(tokenizer, named(6), out, part=Slice(index, 3), **OPTIONS)
        assert summary.num_shards == (1 if index < 2 else 0)
    assert shards.verify(out).ok


def test_the_same_job_twice_is_refused_by_name(tokenizer, tmp_path):
    out = tmp_path / "out"
    pid = running(tokenizer, out, part=Slice(1, 2))
    try:
        wait_for(out / "fingerprint.json")
        with pytest.raises(ShardError, match=r"job 1 of 2 is running in .* already"):
            shards.encode(tokenizer, named(22), out, part=Slice(1, 2), **OPTIONS)
    finally:
        kill(pid)


def test_a_run_of_everything_and_a_job_refuse_each_other(tokenizer, tmp_path):
    out = tmp_path / "out"
    pid = running(tokenizer, out, part=Slice(1, 2))
    try:
        wait_for(out / "fingerprint.json")
        with pytest.raises(ShardError, match="is being written by another process, by job 1 of 2"):
            shards.encode(tokenizer, named(22), out, **OPTIONS)
        with pytest.raises(
            ShardError, match="being written by job 1 of 2, whose shards overlap those of job 0 of 3"
        ):
            shards.encode(tokenizer, named(22), out, part=Slice(0, 3), **OPTIONS)
    finally:
        kill(pid)
    pid = running(tokenizer, out)
    try:
        wait_for(lock_path(out, Slice()))
        wait_for(out / "shard-000000.json")
        with pytest.raises(ShardError, match="by a run of all shards: job 0 of 2 must wait"):
            shards.encode(tokenizer, named(22), out, part=Slice(0, 2), **OPTIONS)
    finally:
        kill(pid)


def test_a_job_that_was_killed_is_mended_by_the_next_and_others_keep_what_they_write(
    tokenizer, tmp_path, whole
):
    out = tmp_path / "out"
    pid = running(tokenizer, out, part=Slice(1, 2))
    wait_for(out / "fingerprint.json")
    (out / ".vistok-temp-shard-000002.tar.0a0a0a0a").write_bytes(b"half")
    (out / ".vistok-temp-shard-000003.tar.0a0a0a0a").write_bytes(b"of the job that runs")
    shards.encode(tokenizer, named(22), out, part=Slice(0, 2), **OPTIONS)
    assert {path.name for path in out.glob(".vistok-temp-shard-00000[23]*0a0a0a0a")} == {
        ".vistok-temp-shard-000003.tar.0a0a0a0a"
    }
    kill(pid)
    shards.encode(tokenizer, named(22), out, part=Slice(1, 2), **OPTIONS)
    assert visible(out) == {name: data for name, data in whole.items() if not name.startswith(".")}
    assert not list(out.glob(".vistok-temp-*"))


def test_a_job_of_another_run_is_refused_while_the_first_has_no_shard_yet(
    tokenizer, other_tokenizer, tmp_path
):
    out = tmp_path / "out"
    pid = running(tokenizer, out, part=Slice(1, 2))
    try:
        wait_for(out / "fingerprint.json")
        with pytest.raises(ShardError, match="weights_hash"):
            shards.encode(other_tokenizer, named(22), out, part=Slice(0, 2), **OPTIONS)
    finally:
        kill(pid)


def test_each_job_counts_the_failures_of_its_own_slice(tokenizer, tmp_path):
    broken = {f"image_{i:04d}": ImageError("torn") for i in (0, 1)}
    options = {**OPTIONS, "on_error": "skip", "max_error_rate": 0.2}
    shards.encode(tokenizer, named(22, broken=broken), tmp_path / "out", part=Slice(1, 2), **options)
    with pytest.raises(
        ShardError,
        match=r"^2 of 12 images cannot be encoded, more than max_error_rate=0\.1 \(--max-error-rate\) allows",
    ):
        shards.encode(
            tokenizer, named(22, broken=broken), tmp_path / "out", part=Slice(0, 2),
            **{**options, "max_error_rate": 0.1},
        )  # fmt: skip


@pytest.mark.parametrize(("index", "count"), [(2, 2), (-1, 2), (0, 0)])
def test_a_job_that_does_not_exist_is_refused(index, count):
    with pytest.raises(ShardError, match="does not exist"):
        Slice(index, count)
