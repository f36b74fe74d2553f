"""Time and peak memory of one piece of work."""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_PROCESS = Path("/proc/self")
# what malloc frees goes back to the system at once, so that reused memory counts as much as fresh memory
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def seconds(work: Callable[[], Any], device: str) -> float:
    """Wall time of one call, the device waited for before and after."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def peak_bytes(work: Callable[[], Any], device: str) -> int:
    """Memory that one call takes at its peak beyond what was held before it.

    On a GPU by PyTorch's allocator. On a CPU by the resident set's high-water mark, which is first brought down to what
    is resident now; where the system does not allow that, memory is filled up to the mark instead.
    """
    gc.collect()
    if device == "cuda":
        _wait(device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        _wait(device)
        return torch.cuda.max_memory_allocated() - before
    ballast = None
    before = _resident()
    if not _lower_high_water():
        ballast = bytearray(max(0, _high_water() - before))
        for position in range(0, len(ballast), 4096):
            ballast[position] = 1
        before = max(_high_water(), before)
    work()
    peak = _high_water()
    del ballast
    return max(0, peak - before)


def peak_bytes_in_a_fresh_process(question: dict[str, Any], timeout: float = 3600.0) -> int:
    """Asks ``vistok.bench.worker``, so that nothing that ran before hides what a provider takes.

    Raises:
        RuntimeError: the last line that the process said, if it failed.
    """
    answer = subprocess.run(
        [sys.executable, "-m", "vistok.bench.worker", json.dumps(question)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **MALLOC, "VISTOK_BENCH_THREADS": str(torch.get_num_threads())},
        check=False,
    )
    if answer.returncode != 0:
        said = answer.stderr.strip().splitlines()
        raise RuntimeError(said[-1] if said else f"the process ended with {answer.returncode}")
    return int(json.loads(answer.stdout.strip().splitlines()[-1])["peak_bytes"])


def free_bytes(device: str) -> int:
    """Memory that is free now."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    with Path("/proc/meminfo").open(encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 8 << 30


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _lower_high_water() -> bool:
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    # the kernel may accept the write without acting on it
    return _high_water() <= _resident() + (4 << 20)


def _high_water() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _resident() -> int:
    try:
        return int((_PROCESS / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return _high_water()
