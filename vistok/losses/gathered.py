"""Rows of all processes, for losses that compare every row with every other."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vistok.global_mean import is_distributed


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all processes in the order of ranks; the rows themselves in a single process.

    Collective, in the backward pass too: each process's rows get the gradients of all processes' losses, summed. As
    data-parallel training then averages gradients over processes, a loss that each process averages over its own rows
    has the gradient of the whole batch.

    Shapes:
        rows (b, ...), the same on every process -> (b * world_size, ...).
    """
    if not is_distributed():
        return rows
    gathered: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


def first_row(rows: Tensor) -> int:
    """Where this process's rows begin among those of all."""
    return dist.get_rank() * len(rows) if is_distributed() else 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        count = len(total) // dist.get_world_size()
        return total[dist.get_rank() * count :][:count]
