"""Rectified flow between noise and latents: what ``diffusion`` and ``mixed`` share."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vistok.downstream.base import spread

TIMES = 1000.0
STEPS = 50


class LatentScale(nn.Module):
    """Latents to mean 0 and deviation 1 in each channel of the training set, and back.

    Shapes:
        latents (n, N, D) -> the same.
    """

    shift: Tensor
    deviation: Tensor

    def __init__(self, train: Tensor) -> None:
        super().__init__()
        deviation, mean = torch.std_mean(train.flatten(0, 1).double(), dim=0)
        self.register_buffer("shift", mean.float())
        self.register_buffer("deviation", deviation.float().clamp_min(1e-6))

    def forward(self, latents: Tensor) -> Tensor:
        """To unit deviation."""
        return (latents - self.shift.to(latents.device)) / self.deviation.to(latents.device)

    def inverse(self, scaled: Tensor) -> Tensor:
        """Back."""
        return scaled * self.deviation + self.shift


class TimeEmbedding(nn.Module):
    """Times in [0, 1] as vectors: cosines and sines of many frequencies, then an MLP.

    Source: Peebles and Xie, DiT (2023), arXiv:2212.09748, section 3.2.

    Shapes:
        time (B,) -> (B, width); width is even.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, time: Tensor) -> Tensor:
        """The vectors."""
        half = self.width // 2
        frequencies = torch.exp(-math.log(1e4) * torch.arange(half, device=time.device) / half)
        angles = TIMES * time[:, None] * frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))  # type: ignore[no-any-return]


Velocity = Callable[[Tensor, Tensor], Tensor]


def flow_errors(
    velocity: Velocity, latents: Tensor, time: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Mean squared error of each image's velocity, on the straight way from noise (time 0) to latents (time 1).

    Source: Liu et al., Flow Straight and Fast (2022), arXiv:2209.03003, section 2.1.

    Shapes:
        latents (B, N, D), time (B,); velocity (B, N, D), (B,) -> (B, N, D). Gives (B,).
    """
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    t = time[:, None, None]
    return (velocity(t * latents + (1 - t) * noise, time) - (latents - noise)).square().mean(dim=(1, 2))


def drawn_flow_errors(velocity: Velocity, latents: Tensor, generator: torch.Generator) -> Tensor:
    """Errors at times that are spread over [0, 1] among the images: (B, N, D) -> (B,)."""
    return flow_errors(velocity, latents, spread(len(latents), generator).to(latents), generator)


def slope(time: Tensor) -> Tensor:
    """What to multiply a mixture by for the best guess of the velocity between independent normal values of deviation 1."""
    return (2 * time - 1) / (time**2 + (1 - time) ** 2)


def independent_velocity(noisy: Tensor, time: Tensor) -> Tensor:
    """That guess: where a model's velocity starts, so that training starts at the ``independent`` loss.

    Source: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models (2022), arXiv:2206.00364,
    section 5 (a network that learns what a linear guess leaves). Deviation: what is left is not scaled.

    Shapes:
        noisy (B, N, D), time (B,) -> (B, N, D).
    """
    return slope(time)[:, None, None] * noisy


def flow_baselines(held_out: Tensor) -> dict[str, float]:
    """Errors without a model, of latents scaled by the training set's statistics.

    ``independent``: the best guess that knows mean and deviation of each channel and takes all values for independent
    and normal; it is linear in what is seen. As the unigram distribution does with tokens, it sees each value alone, so
    that falling below it takes what values say about each other. ``mean``: the mean velocity, whatever is seen.

    Shapes:
        held_out (n, N, D).
    """
    square = float(held_out.double().square().mean())
    t = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    independent = square * (1 - slope(t) * t) ** 2 + (1 + slope(t) * (1 - t)) ** 2
    return {"independent": float(independent.mean()), "mean": square + 1.0}


@torch.no_grad()
def integrate(
    velocity: Velocity, noise: Tensor, on_share: Callable[[float], None], steps: int = STEPS
) -> Tensor:
    """From noise (B, N, D) to latents, by Euler's method in equal steps."""
    x = noise
    for step in range(steps):
        time = torch.full((len(x),), step / steps, device=x.device)
        x = x + velocity(x, time) / steps
        on_share((step + 1) / steps)
    return x
