"""Shift and scale between raw latents and the latents that a generative model sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vistok.recorded import Recorded


class LatentNormaliser(Recorded, nn.Module):
    """``latents = (raw - shift) * scale``, one value for all channels or one per channel; the identity until set.

    Args:
        dim: D, channels of a latent.

    Shapes:
        raw (B, ..., D) <-> latents (B, ..., D).

    Raises:
        ValueError: a scale that is not positive, or neither 1 nor D values.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def set(self, shift: float | Sequence[float], scale: float | Sequence[float]) -> None:
        """Sets both, each from one number or from D."""
        for buffer, given in ((self.shift, shift), (self.scale, scale)):
            values = torch.as_tensor(given, dtype=torch.float32).flatten()
            if values.numel() not in (1, self.dim):
                raise ValueError(
                    f"{values.numel()} values given for {self.dim} channels: give 1 or {self.dim}"
                )
            buffer.copy_(values.expand(self.dim))
        if not bool((self.scale > 0).all()):
            raise ValueError("every scale must be above 0")

    def forward(self, raw: Tensor) -> Tensor:
        """Raw latents to normalised ones."""
        return (raw - self.shift) * self.scale

    def inverse(self, latents: Tensor) -> Tensor:
        """Normalised latents to raw ones."""
        return latents / self.scale + self.shift
