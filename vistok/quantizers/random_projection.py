"""Random projection: a quantizer without anything to learn."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.quantizers.base import Quantizer, QuantizerOutput, as_latent, check_indices
from vistok.quantizers.estimators import straight_through
from vistok.spec import StreamSpec
from vistok_kernels import nearest_code


class RandomProjection(Quantizer):
    """Projects by a frozen random matrix and takes the nearest of K frozen random codes: targets for masked prediction.

    Latents are first scaled to mean 0 and variance 1 over their channels, without which few codes would be used.
    Projections and codes have length 1. The gradient to the latents is that of the projection.

    Source: Chiu et al., Self-supervised Learning with Random-projection Quantizer (2022), arXiv:2202.01855, section 3.1;
    there latents are scaled by statistics of the data set.

    Args:
        codebook_size: K, at least 1.
        dim_in: Channels of the latents, at least 1.
        dim: D, channels of a code, at least 1.

    Shapes:
        latent (B, ..., dim_in) -> quantized (B, ..., D) of length 1, indices (B, ...) in [0, K).

    Raises:
        ValueError: a size below 1; latents that are not finite.
    """

    codebook: Tensor
    projection: Tensor

    def __init__(self, codebook_size: int, dim_in: int, dim: int) -> None:
        super().__init__()
        if min(codebook_size, dim_in, dim) < 1:
            raise ValueError(
                f"codebook_size, dim_in and dim must be at least 1, they are {codebook_size}, {dim_in} and {dim}"
            )
        self.codebook_size: int = codebook_size
        self.dim = dim
        self._dim_in = dim_in
        self.register_buffer("projection", nn.init.xavier_uniform_(torch.empty(dim, dim_in)))
        self.register_buffer("codebook", F.normalize(torch.randn(codebook_size, dim), dim=-1))

    @property
    def dim_in(self) -> int:
        """Channels of the latents."""
        return self._dim_in

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Projects and finds the nearest code."""
        latent = as_latent(latent, self.dim_in)
        with torch.autocast(latent.device.type, enabled=False):
            scaled = F.layer_norm(latent, (self.dim_in,))
            projected = F.normalize(F.linear(scaled, self.projection.float()), dim=-1)
            codebook = self.codebook.float()
            flat = projected.reshape(-1, self.dim)
            indices = nearest_code(flat, codebook, "cosine").reshape(latent.shape[:-1])
            return QuantizerOutput(straight_through(projected, F.embedding(indices, codebook)), indices)

    def decode(self, indices: Tensor) -> Tensor:
        """Looks the codes up: (B, ...) -> (B, ..., D), of length 1."""
        return F.embedding(check_indices(indices, self.codebook_size), self.codebook.float())

    def stream(self) -> StreamSpec:
        """Adds the metric to the stream's description."""
        return StreamSpec("pixel", "pixel", "RandomProjection", self.codebook_size, self.dim, metric="cosine")

    @classmethod
    def tiny(cls) -> RandomProjection:
        """16 codes of dim 4 for latents of dim 6."""
        return cls(16, 6, 4)
