"""The one place where a loss looks at other processes: a mean over all of them, with the gradient of the global batch.

Collectives never hide inside a forward pass, with this one named exception. A loss that is not linear in a mean, as the
entropy of a batch's distribution or the distance of a share from what is wanted, needs the mean over all processes first.
Quantizers with an entropy and ``SelectingEncoder`` call ``mean_over_processes`` for that, in training mode only; every
process of the group must then take part in the same forward passes, as they do in data-parallel training.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether more than one process works on this at this moment."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def mean_over_processes(value: Tensor, count: int) -> Tensor:
    """The mean of a mean over the rows of all processes, the same on each; the tensor itself in a single process.

    Gradients assume data-parallel training, which averages them over processes: each process gets its rows' gradient
    times the world size over its share of the rows, so that the average is the gradient of the loss on the global
    batch. The backward pass communicates nothing.

    Args:
        value: The mean over this process's rows, of the same shape on every process.
        count: How many rows those are.
    """
    if not is_distributed():
        return value
    mean: Tensor = _Mean.apply(value, count)  # type: ignore[no-untyped-call]
    return mean


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, count: int) -> Tensor:
        total = torch.cat([value.detach().flatten() * count, value.new_full((1,), float(count))])
        dist.all_reduce(total)
        ctx.share = dist.get_world_size() * count / total[-1]
        return (total[:-1] / total[-1]).reshape(value.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.share, None
