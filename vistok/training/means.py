"""Means over all images of all processes, however many each of them saw."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch.distributed as dist
from torch import Tensor


class RunningMeans:
    """Sums values by name, and divides once at the end.

    Lightning's ``log(..., sync_dist=True)`` halves an odd number of images as integers, and so is wrong wherever
    processes see different numbers of them.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, values: Mapping[str, Tensor], count: int) -> None:
        """Adds means over ``count`` images."""
        for name, value in values.items():
            self._sums[name] += float(value) * count
            self._counts[name] += count

    def finish(self) -> dict[str, float]:
        """Means by name since the last call. Collective where a process group exists; the same result on all ranks."""
        parts = [(dict(self._sums), dict(self._counts))]
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            gathered: list[tuple[dict[str, float], dict[str, int]] | None] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, parts[0])
            parts = [part for part in gathered if part is not None]
        self._sums.clear()
        self._counts.clear()
        names = dict.fromkeys(name for sums, _ in parts for name in sums)
        return {
            name: sum(sums.get(name, 0.0) for sums, _ in parts)
            / sum(counts.get(name, 0) for _, counts in parts)
            for name in names
        }
