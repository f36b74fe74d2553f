"""The PyTorch path of finite scalar quantization, on flat latents (N, D) and their constants."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vistok_kernels.checks import computing_dtype
from vistok_kernels.fsq.levels import Channels, cached_channels

# sums of whole numbers are exact in float32 below 2^24, in whatever order they are added
_EXACT = 2**24
_REPEATS = 64


def fsq(latents: Tensor, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Latents (N, D) -> quantized (N, D), indices (N,). Floor: 8 N D + 8 N bytes."""
    rows, of = _wide(latents, levels)
    dim = len(levels)
    # one buffer through all steps: the op is bound by memory
    steps = (rows + of.shift).tanh_().mul_(of.reach).sub_(of.offset).round_()
    digits, bases, half_widths = steps.view(-1, dim), of.bases[:dim], of.half_widths[:dim]
    if math.prod(levels) <= _EXACT:
        indices = torch.mv(digits, bases.to(steps.dtype)).add_((half_widths * bases).sum()).long()
    else:
        indices = digits.long().add_(half_widths).mul_(bases).sum(dim=-1)
    return steps.div_(of.half_widths).view(-1, dim), indices


def fsq_backward(gradient: Tensor, latents: Tensor, levels: Sequence[int]) -> Tensor:
    """Gradient of quantized (N, D) -> of latents (N, D): the bound's, as if nothing were rounded. Floor: 12 N D bytes."""
    rows, of = _wide(latents, levels)
    slope = (rows + of.shift).tanh_().square_().neg_().add_(1).mul_(of.reach / of.half_widths)
    return slope.view(-1, len(levels)).mul_(gradient).to(latents.dtype)


def _wide(latents: Tensor, levels: Sequence[int]) -> tuple[Tensor, Channels]:
    """Latents as (N / R, R D) and constants as (R D,): with a few channels alone, loops over a row would be too short."""
    repeats = math.gcd(len(latents), _REPEATS) or 1
    of = cached_channels(tuple(levels), computing_dtype(latents), latents.device, repeats)
    return latents.contiguous().view(-1, repeats * len(levels)), of
