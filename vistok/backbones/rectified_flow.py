"""Rectified flow: straight ways from noise (time 0) to data (time 1), what a velocity misses on them, and steps along them.

Source: Liu et al., Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow (2023),
arXiv:2209.03003, section 2.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]

TIMES = 1000.0
LONGEST = 10000.0


def flow_errors(velocity: Velocity, data: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """Mean squared error of each row's velocity, at one time of its way; in float32.

    Shapes:
        data and noise (B, ...), time (B,) in [0, 1]; velocity (B, ...), (B,) -> (B, ...). Gives (B,).
    """
    share = time.to(data.dtype).reshape(-1, *[1] * (data.ndim - 1))
    predicted = velocity(torch.lerp(noise, data, share), time)
    return (predicted.float() - (data - noise).float()).square().flatten(1).mean(dim=1)


def integrate(
    velocity: Velocity,
    noise: Tensor,
    num_steps: int,
    on_share: Callable[[float], None] = lambda share: None,
) -> Tensor:
    """From noise (B, ...) to data by Euler's method in equal steps; ``on_share`` hears how far it is."""
    there = noise
    for step in range(num_steps):
        time = torch.full((len(there),), step / num_steps, device=there.device)
        there = there + velocity(there, time) / num_steps
        on_share((step + 1) / num_steps)
    return there


def waves(time: Tensor, num_frequencies: int) -> Tensor:
    """Times (B,) in [0, 1] as sines and cosines of many frequencies: (B, 2 * num_frequencies), in float32."""
    exponents = torch.arange(num_frequencies, device=time.device) / num_frequencies
    angles = TIMES * time.float()[:, None] * torch.exp(-math.log(LONGEST) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
