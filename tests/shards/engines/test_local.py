import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from tests.shards.conftest import Images, ended, forked, named, tree, wait_for
from vistok import shards
from vistok.backbones import ConvEncoder
from vistok.data import Procedural
from vistok.errors import ImageError, ShardError
from vistok.quantizers import Gaussian
from vistok.shards import LocalEngine
from vistok.shards.loading import load_images
from vistok.shards.plan import Plan
from vistok.shards.samples import EncodedBatch, SampleEncoder
from vistok.tokenizer import Tokenizer

OPTIONS = {"batch_size": 2, "shard_size": 5, "progress": False}


@pytest.fixture(scope="module")
def whole(tokenizer, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    shards.encode(tokenizer, Procedural(23, 16), out, **OPTIONS)
    return tree(out)


@pytest.mark.parametrize(("workers", "threads"), [(0, 3), (1, 1), (2, 2), (3, 1)])
def test_any_number_of_workers_and_of_threads_gives_the_same_bytes(
    tokenizer, tmp_path, whole, workers, threads
):
    torch.set_num_threads(threads)
    shards.encode(tokenizer, Procedural(23, 16), tmp_path / "out", engine=LocalEngine(workers), **OPTIONS)
    assert tree(tmp_path / "out") == whole
    assert torch.get_num_threads() == threads


def test_latents_have_the_same_bits_with_any_number_of_threads_and_lanes(tmp_path):
    # wide enough that PyTorch would split its sums among threads
    encoder = ConvEncoder(dim=8, channels=64, multipliers=(1, 2), num_res_blocks=1, attention_at=(1,))
    wide = Tokenizer(encoder, Gaussian(4)).eval()
    images = Procedural(6, 64)
    for threads in (1, 2, 5, 9):
        torch.set_num_threads(threads)
        shards.encode(wide, images, tmp_path / str(threads), batch_size=2, progress=False)
    torch.set_num_threads(1)
    assert tree(tmp_path / "1") == tree(tmp_path / "2") == tree(tmp_path / "5") == tree(tmp_path / "9")
    with torch.inference_mode():  # one thread computes what a lane does
        direct = wide.encode(torch.stack([images[0]["image"], images[1]["image"]])).latents
    assert torch.equal(shards.open(tmp_path / "5")[1]["latents"], direct[1])


def test_images_of_many_kinds_come_through_workers_as_they_are(tokenizer, tmp_path):
    sizes = {f"image_{i:04d}": (8 * (1 + i % 3), 8 * (1 + i % 2)) for i in range(23)}
    broken = {
        "image_0003": ImageError("torn"),
        "image_0011": torch.full((3, 16, 16), float("nan")),
        "image_0012": torch.zeros(3, 12, 16),
    }
    options = {**OPTIONS, "on_error": "quarantine", "max_error_rate": 0.5}
    for workers in (0, 2):
        images = named(23, sizes=sizes, broken=broken)
        shards.encode(tokenizer, images, tmp_path / str(workers), workers=workers, **options)
    assert tree(tmp_path / "0") == tree(tmp_path / "2")
    assert len(list((tmp_path / "0" / "quarantine").glob("*.json"))) == 3


def test_several_batches_run_at_once_and_come_in_order(tokenizer):
    images, plan = Procedural(30, 16), Plan.of(Procedural(30, 16).keys(), 10)
    at_once, most, lock = 0, 0, threading.Lock()
    met = threading.Barrier(2, timeout=20)
    encode = tokenizer.encode

    def watched(x, sample):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        met.wait()
        with lock:
            at_once -= 1
        return encode(x, sample=sample)

    encoder = SampleEncoder(tokenizer, 5, lanes=2)
    loaded = load_images(images, plan, range(3), 8, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "encode", watched)
        found = list(encoder.batches(loaded, plan, range(3)))
    assert most == 2
    assert [shard for shard, _ in found] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    numbers = [[i.number for i in b.images] for _, b in found if isinstance(b, EncodedBatch)]
    assert numbers == [list(range(start, start + 5)) for start in range(0, 30, 5)]
    assert encoder.seconds > 0


def test_what_goes_wrong_in_the_model_is_raised_and_commits_nothing_short(tokenizer, tmp_path, monkeypatch):
    torch.set_num_threads(2)
    shards.encode(tokenizer, named(23), tmp_path / "whole", **OPTIONS)
    whole = {
        n: b for n, b in tree(tmp_path / "whole").items() if n in ("shard-000000.arrow", "shard-000001.arrow")
    }
    encode, count = tokenizer.encode, 0

    def failing(x, sample):
        nonlocal count
        count += 1
        if count > 6:
            raise RuntimeError("device lost")
        return encode(x, sample=sample)

    monkeypatch.setattr(tokenizer, "encode", failing)
    with pytest.raises(RuntimeError, match="device lost"):
        shards.encode(tokenizer, named(23), tmp_path / "out", **OPTIONS)
    # six batches are two shards: how many of them were committed by then is the threads' affair, not what is in them
    committed = {n: b for n, b in tree(tmp_path / "out").items() if n.endswith(".arrow")}
    assert committed.items() <= whole.items()
    assert not list((tmp_path / "out").glob(".vistok-temp-*"))
    assert not [t.name for t in threading.enumerate() if t.name.startswith("vistok")]


def test_a_slow_disk_lets_only_so_many_batches_wait(tokenizer, tmp_path, monkeypatch):
    taken, written = [], threading.Event()

    class Watched(Images):
        def __getitem__(self, index):
            taken.append(index)
            return super().__getitem__(index)

    fsync = os.fsync

    def slow(fd):
        if len(taken) > 20:
            written.wait(2)
        return fsync(fd)

    monkeypatch.setattr(os, "fsync", slow)
    images = Watched([f"image_{i:04d}" for i in range(60)])
    timer = threading.Timer(1.0, written.set)
    most = []
    timer.function = lambda: (most.append(len(taken)), written.set())
    timer.start()
    shards.encode(tokenizer, images, tmp_path / "out", batch_size=1, shard_size=10, progress=False)
    assert most and most[0] < 60


def test_the_summary_tells_of_speed_and_of_the_share_of_the_model(tokenizer, tmp_path):
    summary = shards.encode(tokenizer, named(23), tmp_path / "out", **OPTIONS)
    assert 0 < summary.model_share <= 1
    assert summary.tokens_per_second == pytest.approx(4 * summary.images_per_second)
    assert "model busy" in str(summary)
    assert '"num_images": 23' in summary.to_json()


def test_a_worker_that_dies_is_told_whoever_runs_the_model(tokenizer, tmp_path):
    images = named(8, broken={"image_0005": lambda: os._exit(3)})
    with pytest.raises(ShardError, match="a process that reads images died"):
        shards.encode(tokenizer, images, tmp_path / "out", workers=1, **OPTIONS)


def test_workers_end_with_the_process_that_was_killed(tokenizer, tmp_path):
    images = Images([f"image_{i:04d}" for i in range(400)], size=64, delay=0.02)
    pid = forked(lambda: shards.encode(tokenizer, images, tmp_path / "out", workers=2, **OPTIONS))
    wait_for(tmp_path / "out" / "shard-000000.json")
    workers = [int(w) for w in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    os.kill(pid, signal.SIGKILL)
    ended(pid)
    assert len(workers) == 2
    for _ in range(600):
        if not any(is_running(worker) for worker in workers):
            return
        time.sleep(0.05)
    raise AssertionError("workers are left over")


def is_running(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
