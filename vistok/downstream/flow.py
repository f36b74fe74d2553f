"""Rectified flow between noise and latents: what ``diffusion`` and ``mixed`` share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vistok.backbones.rectified_flow import Velocity, flow_errors, waves
from vistok.downstream.base import spread


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
    """Times in [0, 1] as vectors: sines and cosines of many frequencies, then an MLP.

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
        return self.mlp(waves(time, self.width // 2))  # type: ignore[no-any-return]


def random_flow_errors(velocity: Velocity, latents: Tensor) -> Tensor:
    """Errors at times and noise that are drawn anew, for training: (B, N, D) -> (B,)."""
    time = torch.rand(len(latents), device=latents.device)
    return flow_errors(velocity, latents, torch.randn(latents.shape).to(latents), time)


def drawn_flow_errors(velocity: Velocity, latents: Tensor, generator: torch.Generator) -> Tensor:
    """Errors at times that are spread over [0, 1] among the images: (B, N, D) -> (B,)."""
    time = spread(len(latents), generator).to(latents)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    return flow_errors(velocity, latents, noise, time)


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
