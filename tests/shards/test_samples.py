"""Images that fail, beside batches in several lanes."""

import pytest
import torch

from tests.shards.conftest import Images, build_tokenizer, named, tree
from vistok import shards
from vistok.errors import ImageError, ShardError

OPTIONS = {"batch_size": 4, "progress": False}


class Counting(Images):
    """Counts what is read; only the first four images are good."""

    def __init__(self, count):
        keys = [f"image_{i:04d}" for i in range(count)]
        super().__init__(keys, broken={key: ImageError("torn") for key in keys[4:]})
        self.reads = 0

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_a_run_that_fails_does_not_read_on(tokenizer, tmp_path, threads, policy):
    torch.set_num_threads(threads)
    images = Counting(2000)
    with pytest.raises(ShardError, match="cannot be encoded"):
        shards.encode(tokenizer, images, tmp_path / "out", on_error=policy, shard_size=1000, **OPTIONS)
    # the writer's queue and the rate of 5 % that may fail
    assert images.reads < (30 if policy == "raise" else 150)


def test_failures_across_shards_are_recorded_the_same_with_any_number_of_lanes(tokenizer, tmp_path):
    broken = {f"image_{i:04d}": ImageError("torn") for i in (0, 3, 4, 5, 6, 7, 9, 16)}
    images = named(17, broken=broken)
    for threads in (1, 3):
        torch.set_num_threads(threads)
        shards.encode(
            tokenizer,
            images,
            tmp_path / str(threads),
            shard_size=4,
            on_error="skip",
            max_error_rate=1,
            **OPTIONS,
        )
    assert tree(tmp_path / "1") == tree(tmp_path / "3")


def test_a_batch_that_does_not_fit_is_told_with_its_size(tokenizer, tmp_path, monkeypatch):
    def encode(images, sample=False):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory\nmore"
        )

    monkeypatch.setattr(tokenizer, "encode", encode)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with pytest.raises(
            ShardError, match=r"4 images at once of 16 x 16: .*lower batch_size \(--batch-size\)"
        ) as told:
            shards.encode(tokenizer, named(8), tmp_path / "out", **OPTIONS)
        assert "\n" not in str(told.value)


def test_a_tokenizer_without_weights_is_refused(tmp_path):
    with pytest.raises(ShardError, match="device 'meta', which holds no weights"):
        shards.encode(build_tokenizer().to("meta"), named(2), tmp_path / "out", **OPTIONS)
