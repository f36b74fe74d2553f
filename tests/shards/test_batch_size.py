import json
import threading
import time

import pytest
import torch

from tests.shards.conftest import Images, named, tree
from vistok import shards
from vistok.errors import ImageError, ShardError
from vistok.shards import batch_size
from vistok.shards.batch_size import find_batch_size

OPTIONS = {"shard_size": 4, "progress": False}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(batch_size, "_TRIAL_SECONDS", 0.05)


def test_doubling_ends_where_it_gains_nothing(tokenizer):
    times = {1: 8.0, 2: 4.5, 4: 4.0, 8: 3.9, 16: 1.0}
    assert batch_size._fastest(lambda batch: times[batch]) == 4


def test_doubling_ends_before_memory_does():
    tried, held = [], [100]

    def run(batch):
        tried.append(batch)
        held[0] = max(held[0], 100 + 10 * batch)
        return 1 / batch

    # 8 images take 80 of the 320: 16 would take half of it, and 32 are not even tried
    assert batch_size._fastest(run, free=lambda: 320, used=lambda: held[0]) == 16
    assert max(tried) == 16


def test_memory_held_earlier_does_not_count():
    gone = torch.ones(32 << 20)
    before = batch_size._peak_bytes()
    del gone
    batch_size._forget_peak()
    assert batch_size._peak_bytes() < before - (64 << 20)


def test_what_is_tried_out_is_what_runs(tokenizer, monkeypatch):
    torch.set_num_threads(3)
    encode, seen = tokenizer.encode, []

    def watched(images, **options):
        seen.append((threading.get_ident(), torch.get_num_threads(), torch.is_inference_mode_enabled()))
        time.sleep(0.05)
        return encode(images, **options)

    monkeypatch.setattr(tokenizer, "encode", watched)
    find_batch_size(tokenizer, named(3))
    assert {threads for _, threads, _ in seen} == {1} and all(inference for *_, inference in seen)
    assert len({thread for thread, *_ in seen[:3]}) == 3
    assert torch.get_num_threads() == 3


def test_a_model_that_cannot_encode_one_image_is_told(tokenizer, monkeypatch):
    def encode(images, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(tokenizer, "encode", encode)
    with pytest.raises(ShardError, match="cannot encode a single image"):
        find_batch_size(tokenizer, named(3))


def test_on_a_device_half_of_what_fits_is_taken():
    def run(batch):
        if batch > 48:
            raise torch.OutOfMemoryError
        return 1.0

    assert batch_size._largest_fitting(run, torch.device("cpu")) == 16


def test_a_device_without_room_for_one_image_is_told():
    def run(batch):
        raise torch.OutOfMemoryError

    with pytest.raises(ShardError, match="not even one image fits"):
        batch_size._largest_fitting(run, torch.device("cpu"))


def test_a_real_model_is_tried_out(tokenizer):
    found = find_batch_size(tokenizer, named(3))
    assert found in {1, 2, 4, 8, 16, 32, 64}


def test_images_that_cannot_be_read_are_left_to_the_run(tokenizer):
    assert find_batch_size(tokenizer, Images(["a"], broken={"a": ImageError("torn")})) == 1


def test_the_largest_of_the_first_images_counts():
    images = named(4, sizes={"image_0002": (16, 48)})
    assert batch_size._largest(images).shape == (3, 16, 48)


def test_a_run_that_goes_on_takes_the_batch_size_that_was_found(tokenizer, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shards.encode(tokenizer, named(8), out, batch_size="auto", **OPTIONS)
    whole = tree(out)
    found = [json.loads(line)["batch_size"] for line in (out / "made-with.jsonl").read_text().splitlines()]
    assert len(found) == 1

    def never(*arguments):
        raise AssertionError("it is recorded")

    monkeypatch.setattr(batch_size, "_largest", never)
    (out / "shard-000001.json").unlink()
    shards.encode(tokenizer, named(8), out, batch_size="auto", **OPTIONS)
    assert tree(out) == whole
    assert len((out / "made-with.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("wrong", [0, -1, "largest"])
def test_other_sizes_are_refused(tokenizer, tmp_path, wrong):
    with pytest.raises(ShardError, match="batch_size must be at least 1 or 'auto'"):
        shards.encode(tokenizer, named(2), tmp_path / "out", batch_size=wrong, **OPTIONS)
