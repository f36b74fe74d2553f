"""Finite scalar quantization."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vistok.quantizers.base import Quantizer, QuantizerOutput, as_latent, check_indices
from vistok.spec import StreamSpec
from vistok_kernels import fsq, fsq_decode


class FSQ(Quantizer):
    """Rounds each latent channel to a few fixed levels; the codebook is their grid and is never learned.

    Every index in ``[0, prod(levels))`` names a reachable code, so none can die and there is no loss to weigh (above
    1000 levels in one channel, its outermost two are out of reach of the bound). The first level is the least
    significant digit of the index.

    Source: Mentzer et al., Finite Scalar Quantization (2023), arXiv:2309.15505, section 3.

    Args:
        levels: Steps per channel, each at least 2. ``(8, 5, 5, 5)`` gives K = 1000 codes of dim 4.

    Shapes:
        latent (B, ..., D), D = len(levels) -> quantized (B, ..., D) in [-1, 1], indices (B, ...) in [0, K).

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

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Bounds, rounds and packs."""
        latent = as_latent(latent, self.dim)
        with torch.autocast(latent.device.type, enabled=False):
            quantized, indices = fsq(latent, self.levels)
        return QuantizerOutput(quantized, indices)

    def decode(self, indices: Tensor) -> Tensor:
        """Unpacks: (B, ...) -> (B, ..., D) in [-1, 1]."""
        return fsq_decode(check_indices(indices, self.codebook_size), self.levels)

    def stream(self) -> StreamSpec:
        """Adds the levels to the stream's description."""
        return StreamSpec("pixel", "pixel", "FSQ", self.codebook_size, self.dim, levels=self.levels)

    @classmethod
    def tiny(cls) -> FSQ:
        """12 codes of dim 2."""
        return cls((4, 3))
