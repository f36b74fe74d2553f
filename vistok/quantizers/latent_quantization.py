"""Latent quantization: a grid like FSQ's whose values are learned."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.quantizers.base import Quantizer, QuantizerOutput, as_latent, check_indices
from vistok.quantizers.estimators import straight_through
from vistok.spec import StreamSpec
from vistok_kernels.checks import check_finite


class LatentQuantization(Quantizer):
    """Replaces each channel by the nearest of a few learned numbers of its own.

    Losses ``commitment`` (moves the encoder) and ``codebook`` (moves the numbers) are mean squared distances over all
    elements, unweighted. The first channel is the least significant digit of the index. Numbers start evenly spread in
    [-0.5, 0.5], without the upper end where there is an even number of them, so that 0 is always one.

    Source: Hsu et al., Disentanglement via Latent Quantization (2023), arXiv:2305.18378, section 4.

    Args:
        levels: Numbers per channel, each at least 2.

    Shapes:
        latent (B, ..., D), D = len(levels) -> quantized (B, ..., D), indices (B, ...) in [0, prod(levels)).

    Raises:
        ValueError: a level below 2, or prod(levels) above 2^62; latents that are not finite.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(int(level) for level in levels)
        if not self.levels or min(self.levels) < 2:
            raise ValueError(f"levels must be at least 2 each, they are {list(self.levels)}")
        self.codebook_size: int = math.prod(self.levels)
        if self.codebook_size > 1 << 62:
            raise ValueError(
                f"prod(levels) is {self.codebook_size}, above 2^62: use fewer channels or levels"
            )
        self.dim = len(self.levels)
        # one dimension: not a matrix, so no weight decay
        self.values = nn.ParameterList(
            nn.Parameter(torch.arange(level) / (level - level % 2) - 0.5) for level in self.levels
        )

    @property
    def loss_names(self) -> tuple[str, ...]:
        """``commitment`` and ``codebook``."""
        return ("commitment", "codebook")

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Finds the nearest number of each channel."""
        latent = as_latent(latent, self.dim)
        if latent.device.type == "cpu" and not torch.compiler.is_compiling():
            check_finite(latent, "latents", "look for a diverged encoder or a bad image in the batch")
        with torch.autocast(latent.device.type, enabled=False):
            digits = [
                _nearest(latent[..., n].detach(), value.detach().float())
                for n, value in enumerate(self.values)
            ]
            codes = self._codes(digits)
            losses = {
                "commitment": F.mse_loss(latent, codes.detach()),
                "codebook": F.mse_loss(codes, latent.detach()),
            }
            indices, place = torch.zeros_like(digits[0]), 1
            for digit, level in zip(digits, self.levels, strict=True):
                indices, place = indices + digit * place, place * level
            return QuantizerOutput(straight_through(latent, codes), indices, losses)

    def decode(self, indices: Tensor) -> Tensor:
        """Looks each channel's number up: (B, ...) -> (B, ..., D)."""
        indices = check_indices(indices, self.codebook_size)
        digits = []
        for level in self.levels:
            digits.append(indices % level)
            indices = indices // level
        return self._codes(digits)

    def stream(self) -> StreamSpec:
        """Adds the levels to the stream's description."""
        return StreamSpec(
            "pixel", "pixel", "LatentQuantization", self.codebook_size, self.dim, levels=self.levels
        )

    @classmethod
    def tiny(cls) -> LatentQuantization:
        """12 codes of dim 2."""
        return cls((4, 3))

    def _codes(self, digits: Sequence[Tensor]) -> Tensor:
        return torch.stack(
            [value.float()[digit] for value, digit in zip(self.values, digits, strict=True)], dim=-1
        )


def _nearest(latent: Tensor, values: Tensor) -> Tensor:
    """The position of the nearest of a few values (L,), ties to the lowest value: (...) -> (...) int64."""
    ordered, order = torch.sort(values, stable=True)
    return order[torch.bucketize(latent.contiguous(), (ordered[1:] + ordered[:-1]) / 2)]
