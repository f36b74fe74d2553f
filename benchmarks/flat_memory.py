"""Memory and open files over a long run: 200,000 generated images at 64 px through the demo's tokenizer.

    python benchmarks/flat_memory.py [--images 200000] [--workers 1] [--every 10] [--out FOLDER]

Prints a line every few seconds: images done, resident memory of this process and of all its processes together (shared
pages counted once), open files. Ends with 1 if the whole ever takes 1.5 GB, or if the second half takes 100 MB more than the
first.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vistok import shards
from vistok.bench.encoding import recipe_tokenizer
from vistok.shards import LocalEngine

LIMIT, GROWTH = 1.5e9, 100e6


class Generated:
    """Noise in blocks of 8 pixels, made in microseconds, so that the time goes to what is measured."""

    def __init__(self, count: int, size: int = 64) -> None:
        self._keys, self._size = [f"{number:09d}" for number in range(count)], size

    def keys(self) -> list[str]:
        return self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        side = self._size // 8
        blocks = np.random.default_rng(index).integers(0, 256, (3, side, side), dtype=np.uint8)
        pixels = blocks.repeat(8, axis=1).repeat(8, axis=2).astype(np.float32)
        pixels /= 127.5
        pixels -= 1
        return {"image": torch.from_numpy(pixels), "key": self._keys[index]}


def proportional_bytes(pid: int | str) -> int:
    """Memory of a process, pages that it shares counted in parts."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def children() -> list[int]:
    """Processes that this one has started."""
    found = []
    for folder in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in (folder / "children").read_text().split()]
    return found


def main() -> int:
    """Encodes and watches."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--every", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--out", help="default: a temporary folder")
    arguments = parser.parse_args()
    seen: list[int] = []
    done = threading.Event()
    start = time.monotonic()

    with tempfile.TemporaryDirectory(prefix="vistok-memory-") as folder:
        out = Path(arguments.out or folder) / "shards"

        def watch() -> None:
            while not done.wait(arguments.every):
                images = 1000 * len(list(out.glob("shard-*.json")))
                own = proportional_bytes("self")
                whole = own + sum(map(proportional_bytes, children()))
                files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
                seen.append(whole)
                print(
                    f"{time.monotonic() - start:7.0f} s {images:8} images {own / 1e6:7.0f} MB, with workers "
                    f"{whole / 1e6:7.0f} MB, {files} open files",
                    flush=True,
                )

        watcher = threading.Thread(target=watch)
        tokenizer, images = recipe_tokenizer("demo"), Generated(arguments.images)
        watcher.start()
        try:
            summary = shards.encode(
                tokenizer, images, out, engine=LocalEngine(arguments.workers), progress=False
            )
        finally:
            done.set()
            watcher.join()
        print(summary)
    if len(seen) < 4:
        print("too short to tell: take more --images, or look more often")
        return 0
    early, late = max(seen[: len(seen) // 2]), max(seen[len(seen) // 2 :])
    flat = late < LIMIT and late - early < GROWTH
    print(
        f"at most {max(early, late) / 1e6:.0f} MB; the second half {(late - early) / 1e6:+.0f} MB: "
        f"{'flat' if flat else 'NOT FLAT'}"
    )
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
