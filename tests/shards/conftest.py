"""A tiny tokenizer, images from memory, and runs in forked processes that can be killed."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from vistok.backbones import ConvDecoder, ConvEncoder
from vistok.quantizers import FSQ, Gaussian
from vistok.quantizers.base import Quantizer
from vistok.tokenizer import Tokenizer


class Images:
    """Images drawn from their keys; any of them may have another size, extra fields, or fail."""

    def __init__(
        self,
        keys: list[str],
        size: int = 16,
        sizes: Mapping[str, tuple[int, int]] | None = None,
        fields: Mapping[str, Mapping[str, Any]] | None = None,
        broken: Mapping[str, Any] | None = None,
        delay: float = 0.0,
    ) -> None:
        self._keys, self._size, self._delay = keys, size, delay
        self._sizes, self._fields, self._broken = sizes or {}, fields or {}, broken or {}

    def keys(self) -> list[str]:
        return self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        time.sleep(self._delay)
        key = self._keys[index]
        if key in self._broken:
            broken = self._broken[key]
            if isinstance(broken, Exception):
                raise broken
            if callable(broken):
                broken()
            return {"image": broken, "key": key}
        height, width = self._sizes.get(key, (self._size, self._size))
        seed = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:4], "big")
        image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        return {"image": image, "key": key, **self._fields.get(key, {})}


def named(count: int, **options: Any) -> Images:
    return Images([f"image_{i:04d}" for i in range(count)], **options)


def build_tokenizer(quantizer: Quantizer | None = None, seed: int = 0, **options: Any) -> Tokenizer:
    torch.manual_seed(seed)
    quantizer = quantizer if quantizer is not None else FSQ((8, 5, 5))
    size = {"channels": 8, "multipliers": (1,), "num_res_blocks": 1, "patch": 8}
    return Tokenizer(
        ConvEncoder(dim=quantizer.dim_in, **size),
        quantizer,
        ConvDecoder(dim=quantizer.dim, **size),
        **options,
    )


@pytest.fixture(autouse=True)
def one_thread():
    """Forked processes may not use the parent's thread pool."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return build_tokenizer()


@pytest.fixture(scope="session")
def other_tokenizer() -> Tokenizer:
    return build_tokenizer(seed=1)


@pytest.fixture(scope="session")
def continuous() -> Tokenizer:
    return build_tokenizer(Gaussian(dim=4))


def tree(out: Path) -> dict[str, bytes]:
    """All files below a directory, by relative path, but the record of who made them."""
    files = (p for p in sorted(out.rglob("*")) if p.is_file() and p.name != "made-with.jsonl")
    return {str(p.relative_to(out)): p.read_bytes() for p in files}


def forked(work: Callable[[], Any]) -> int:
    """Runs work in a forked process and returns its id; it ends with 0, or 1 if the work raised."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def ended(pid: int) -> int:
    """Waits for a forked process; its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_after(work: Callable[[], Any], seconds: float) -> int:
    pid = forked(work)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    return ended(pid)


def wait_for(path: Path, seconds: float = 60.0) -> None:
    for _ in range(int(seconds / 0.01)):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} did not appear")
