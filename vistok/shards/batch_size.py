"""Finds a batch size by trying: on a GPU the largest that fits, on a CPU the smallest that is as fast as any."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from vistok.errors import ShardError, VistokError
from vistok.shards.fingerprint import tokenizer_device
from vistok.shards.job import evaluating
from vistok.shards.loading import KeyedImages, reason_of
from vistok.shards.samples import lanes_pool, num_lanes
from vistok.tokenizer import Tokenizer

MOST_ON_CPU, MOST_ON_DEVICE = 64, 1024
GAIN = 0.05
MEMORY_SHARE = 0.5
TRIED_IMAGES = 64
_TRIAL_SECONDS = 2.0


def find_batch_size(tokenizer: Tokenizer, dataset: KeyedImages) -> int:
    """A batch size for images like the first ones of a dataset, a power of 2.

    On a CPU as many batches run at once as in encoding. Sizes are doubled while that makes an image faster by ``GAIN``
    and what is in flight stays within ``MEMORY_SHARE`` of the free memory. Elsewhere they are doubled until memory runs out, and half of the largest that fits is taken, so that
    a larger image or a fragmented memory does not end the run; where the images differ in size, the largest of the first
    ``TRIED_IMAGES`` counts.

    Raises:
        ShardError: not even one image fits into the memory.
    """
    image = _largest(dataset)
    if image is None:
        return 1  # encoding tells what is wrong with the images
    device = tokenizer_device(tokenizer)
    with evaluating(tokenizer):
        if device.type == "cpu":
            return _fastest(lambda batch: _run_in_lanes(tokenizer, image, batch, device))
        return _largest_fitting(lambda batch: _run(tokenizer, image, batch, device), device)


def _largest(dataset: KeyedImages) -> Tensor | None:
    found: Tensor | None = None
    for index in range(min(TRIED_IMAGES, len(dataset))):
        try:
            image = dataset[index]["image"]
        except Exception:  # a dataset is anyone's code; encoding tells of it with the key
            continue
        if isinstance(image, Tensor) and (found is None or image.numel() > found.numel()):
            found = image
    return found


def _run(tokenizer: Tokenizer, image: Tensor, batch: int, device: torch.device) -> float:
    """Seconds an image."""
    pixels = image.float().expand(batch, *image.shape).contiguous().to(device)
    start = time.perf_counter()
    tokenizer.encode(pixels).main.values.cpu()
    return (time.perf_counter() - start) / batch


def _run_in_lanes(tokenizer: Tokenizer, image: Tensor, batch: int, device: torch.device) -> float:
    """Seconds an image where each lane has a batch, and one more waits."""
    lanes, threads = num_lanes(device, batch), torch.get_num_threads()
    waiting = image.float().expand(batch, *image.shape).contiguous()

    def one(lane: int) -> float:
        with torch.inference_mode():  # which is a thread's own
            return _run(tokenizer, waiting[0], batch, device)

    if lanes == 1 and threads == 1:
        return one(0)
    try:
        with lanes_pool(lanes) as pool:
            list(pool.map(torch.ones, range(lanes)))  # threads are born before the clock starts
            start = time.perf_counter()
            list(pool.map(one, range(lanes)))
            return (time.perf_counter() - start) / (lanes * batch)
    finally:
        torch.set_num_threads(threads)


def _forget_peak() -> None:
    """Lets the peak begin at what is held now, where the system can do that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_bytes() -> int:
    """The most memory that this process held since ``_forget_peak``."""
    try:
        with Path("/proc/self/status").open(encoding="ascii", errors="replace") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _free_bytes() -> int:
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 4 << 30


def _fastest(
    run: Callable[[int], float],
    free: Callable[[], int] = _free_bytes,
    used: Callable[[], int] = _peak_bytes,
) -> int:
    _forget_peak()
    available, before = free(), used()
    try:
        run(1)  # the first pass through a model is slower than those after it
    except (VistokError, ValueError):
        return 1
    except (RuntimeError, MemoryError) as error:
        raise ShardError(f"the model cannot encode a single image: {reason_of(error)}") from error
    best, size = _repeated(run, 1), 1
    # twice the images take at most twice the memory: what does not fit is not tried out
    while size < MOST_ON_CPU and 2 * (used() - before) <= MEMORY_SHARE * available:
        try:
            found = _repeated(run, 2 * size)
        except (RuntimeError, MemoryError):
            break
        if found > best * (1 - GAIN):
            break
        size, best = 2 * size, found
    return size


def _repeated(run: Callable[[int], float], batch: int) -> float:
    """The fastest of some runs, since what else goes on here only makes them slower."""
    times = [run(batch)]
    start = time.perf_counter()
    while len(times) < 5 and time.perf_counter() - start < _TRIAL_SECONDS:
        times.append(run(batch))
    return min(times)


def _largest_fitting(run: Callable[[int], float], device: torch.device) -> int:
    size = 1
    while size <= MOST_ON_DEVICE:
        try:
            run(size)
        except (VistokError, ValueError):
            return 1
        except torch.OutOfMemoryError:
            if size == 1:
                raise ShardError(
                    f"not even one image fits into the memory of {device}: free some, or use another device"
                ) from None
            break
        finally:
            if device.type == "cuda":
                torch.cuda.empty_cache()
        size *= 2
    return max(1, size // 4)
