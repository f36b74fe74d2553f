"""The PyTorch path of finite scalar quantization, on flat latents (N, D) and their constants."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vistok_kernels.checks import computing_dtype
from vistok_kernels.fsq.levels import channels


def fsq(latents: Tensor, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Latents (N, D) -> quantized (N, D), indices (N,). Floor: 8 N D + 8 N bytes."""
    of = channels(levels, computing_dtype(latents), latents.device)
    # one buffer through all steps: the op is bound by memory
    steps = (latents.contiguous() + of.shift).tanh_().mul_(of.reach).sub_(of.offset).round_()
    indices = steps.long().add_(of.half_widths).mul_(of.bases).sum(dim=-1)
    return steps.div_(of.half_widths), indices


def fsq_backward(gradient: Tensor, latents: Tensor, levels: Sequence[int]) -> Tensor:
    """Gradient of quantized (N, D) -> of latents (N, D): the bound's, as if nothing were rounded. Floor: 12 N D bytes."""
    of = channels(levels, computing_dtype(latents), latents.device)
    slope = (latents.contiguous() + of.shift).tanh_().square_().neg_().add_(1)
    return slope.mul_(of.reach / of.half_widths).mul_(gradient).to(latents.dtype)
