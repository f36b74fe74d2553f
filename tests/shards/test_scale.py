"""Memory and open files do not grow with the number of images."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from vistok import shards


class Generated:
    """Images from arithmetic alone, far cheaper than the model."""

    def __init__(self, count, size=16):
        self._keys, self._size = [f"{i:09d}" for i in range(count)], size

    def keys(self):
        return self._keys

    def __len__(self):
        return len(self._keys)

    def __getitem__(self, index):
        pixels = np.random.default_rng(index).integers(0, 256, (3, self._size, self._size), dtype=np.uint8)
        image = torch.from_numpy(pixels.astype(np.float32) / np.float32(127.5) - np.float32(1))
        return {"image": image, "key": self._keys[index]}


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def watch(tokenizer, out, count, workers, shard_size):
    """Resident bytes and open files of this process, each few hundredths of a second of a run."""
    seen, done = [], threading.Event()

    def look():
        while not done.wait(0.05):
            seen.append((resident(), len(os.listdir("/proc/self/fd"))))  # noqa: PTH208

    thread = threading.Thread(target=look)
    thread.start()
    try:
        summary = shards.encode(
            tokenizer, Generated(count), out, workers=workers, shard_size=shard_size, progress=False
        )
    finally:
        done.set()
        thread.join()
    assert summary.num_encoded == count
    return seen


@pytest.mark.parametrize("count", [4000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_memory_and_open_files_stay_where_they_are(tokenizer, tmp_path, count):
    start = time.monotonic()
    seen = watch(tokenizer, tmp_path / "out", count, workers=1, shard_size=200)
    assert time.monotonic() > start and len(seen) >= 4
    early = max(memory for memory, _ in seen[: len(seen) // 2])
    late = max(memory for memory, _ in seen[len(seen) // 2 :])
    assert late - early < 40e6, (early, late)
    files = [files for _, files in seen]
    assert max(files) - min(files) < 20
