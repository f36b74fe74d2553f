"""Sums and samples over all processes: asked at each call whether a process group exists, equal at any world size."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from vistok.global_mean import is_distributed


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, the same on each; the tensor itself in a single process."""
    if not is_distributed():
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total


def rows_of_all_processes(rows: Tensor) -> Tensor:
    """Rows (N, D) of all processes in an order that does not depend on who held them.

    Rows are sorted by a fixed projection, so that a seeded draw from them gives the same rows at any world size.
    """
    if is_distributed():
        sizes = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(dist.get_world_size())]
        dist.all_gather(sizes, torch.tensor([rows.shape[0]], device=rows.device))
        longest = int(torch.cat(sizes).max())
        padded = rows.new_zeros(longest, rows.shape[1])
        padded[: rows.shape[0]] = rows
        gathered = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(gathered, padded)
        rows = torch.cat([part[: int(size)] for part, size in zip(gathered, sizes, strict=True)])
    direction = torch.cos(torch.arange(1, rows.shape[1] + 1, dtype=torch.float64) ** 2).to(rows.device)
    order = torch.argsort((rows.double() * direction).sum(dim=1), stable=True)
    return rows[order]


def from_first_process(value: Tensor) -> Tensor:
    """The first process's tensor, on every process."""
    if is_distributed():
        value = value.contiguous()
        dist.broadcast(value, src=0)
    return value
