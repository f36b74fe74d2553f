"""What finite scalar quantization computes, in the plainest PyTorch: the definition of correct."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def bound(latents: Tensor, levels: Sequence[int]) -> Tensor:
    """Squeezes each channel between its lowest and highest level, in steps of 1 around the middle one.

    The shift puts a latent of 0 near a level and not between two where their number is even; the paper takes ``tan``
    for it where ``atanh`` would be exact.

    Source: Mentzer et al., Finite Scalar Quantization (2023), arXiv:2309.15505, appendix A.1, with its eps of 1e-3.

    Shapes:
        latents (..., D) -> (..., D), within ((1 - L) / 2 - offset, (L - 1) / 2 - offset) of the channel's level L.
    """
    bounded = []
    for channel, level in zip(latents.unbind(dim=-1), levels, strict=True):
        reach = (level - 1) * (1 - 1e-3) / 2
        offset = 0.5 if level % 2 == 0 else 0.0
        bounded.append(torch.tanh(channel + math.tan(offset / reach)) * reach - offset)
    return torch.stack(bounded, dim=-1)


def fsq(latents: Tensor, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Bounds, rounds half to even, and numbers the code; the gradient passes the rounding unchanged.

    Shapes:
        latents (..., D) -> quantized (..., D) in [-1, 1], indices (...) in [0, prod(levels)).
    """
    bounded = bound(latents, levels)
    steps = bounded.detach().round()
    straight_through = steps + (bounded - bounded.detach())
    quantized, indices, base = (
        [],
        torch.zeros(latents.shape[:-1], dtype=torch.int64, device=latents.device),
        1,
    )
    for channel, level in enumerate(levels):
        quantized.append(straight_through[..., channel] / (level // 2))
        indices = indices + (steps[..., channel].long() + level // 2) * base
        base *= level
    return torch.stack(quantized, dim=-1), indices


def fsq_decode(indices: Tensor, levels: Sequence[int]) -> Tensor:
    """Unpacks the indices, the first channel being the least significant: (...) -> (..., D) in [-1, 1]."""
    channels = []
    for level in levels:
        channels.append((indices % level - level // 2).float() / (level // 2))
        indices = indices // level
    return torch.stack(channels, dim=-1)
