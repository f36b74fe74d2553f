"""A soft choice among codes: continuous latents that stay within a codebook's reach."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.quantizers.base import QuantizerOutput, as_latent
from vistok.quantizers.code_entropy import entropy_losses
from vistok.quantizers.continuous import Continuous
from vistok_kernels import codebook_attention


class SoftVQ(Continuous):
    """Replaces each latent by the softmax-weighted sum of all codes, differentiable without an estimator.

    Latents and codes are scaled to length 1, logits are their cosines over ``temperature``. With several codebooks the
    token sequence is cut into as many consecutive segments, each with a codebook of its own. The result is continuous;
    ``likeliest`` tells which code weighs most. Neither pass holds the tokens x codes weights.

    Losses ``sample_entropy`` and ``batch_entropy`` (negated), in nats, averaged over codebooks, in training mode; see
    ``entropy_losses``.

    Source: Chen et al., SoftVQ-VAE: Efficient 1-Dimensional Continuous Tokenizer (2024), arXiv:2412.10958, section 3.2.
    Deviation: codes get a gradient through the weights too, the public code stops it there.

    Args:
        num_codes: K, codes of one codebook, at least 1.
        dim: D, at least 1.
        num_codebooks: G, at least 1. Token n of N uses codebook n G // N.
        temperature: Of the softmax, above 0.
        entropy_temperature: Of the entropies' softmax, which is another one; 0 leaves the two losses out.

    Shapes:
        latent (B, ..., D) -> quantized (B, ..., D), no indices.

    Raises:
        ValueError: an argument out of its range; latents that are not finite.
    """

    def __init__(
        self,
        num_codes: int,
        dim: int,
        num_codebooks: int = 1,
        temperature: float = 0.07,
        entropy_temperature: float = 0.01,
    ) -> None:
        super().__init__()
        if min(num_codes, dim, num_codebooks) < 1:
            raise ValueError(
                "num_codes, dim and num_codebooks must be at least 1, "
                f"they are {num_codes}, {dim} and {num_codebooks}"
            )
        if not temperature > 0 or not entropy_temperature >= 0:
            raise ValueError(
                "temperature must be above 0 and entropy_temperature at least 0, "
                f"they are {temperature} and {entropy_temperature}"
            )
        self.dim = dim
        self.num_codes, self.num_codebooks = num_codes, num_codebooks
        self.temperature, self.entropy_temperature = temperature, entropy_temperature
        # a list of matrices named so that they are not decayed
        self.codebook = nn.Parameter(
            F.normalize(torch.empty(num_codebooks, num_codes, dim).uniform_(-1, 1), dim=-1)
        )

    @property
    def loss_names(self) -> tuple[str, ...]:
        """The two entropies, unless they are left out."""
        return ("sample_entropy", "batch_entropy") if self.entropy_temperature else ()

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Weighs the codes; in training mode also measures entropies."""
        latent = as_latent(latent, self.dim)
        with torch.autocast(latent.device.type, enabled=False):
            parts, codebooks = self._segments(latent), F.normalize(self.codebook.float(), dim=-1)
            values = [self._attend(part, codes)[0] for part, codes in zip(parts, codebooks, strict=True)]
            quantized = torch.cat(values, dim=1).reshape(latent.shape)
            losses: dict[str, Tensor] = {}
            if self.training and self.entropy_temperature:
                scale = 1 / self.entropy_temperature
                terms = [
                    entropy_losses(part.flatten(0, 1), codes, scale, "dot")
                    for part, codes in zip(parts, codebooks, strict=True)
                    if part.numel()
                ]
                losses = {name: torch.stack([term[name] for term in terms]).mean() for name in terms[0]}
            return QuantizerOutput(quantized, None, losses)

    @torch.no_grad()
    def likeliest(self, latent: Tensor) -> Tensor:
        """The code that weighs most: latent (B, ..., D) -> (B, ...) in [0, K), local to each token's codebook."""
        latent = as_latent(latent, self.dim)
        codebooks = F.normalize(self.codebook.float(), dim=-1)
        found = [
            self._attend(p, codes)[1] for p, codes in zip(self._segments(latent), codebooks, strict=True)
        ]
        return torch.cat(found, dim=1).reshape(latent.shape[:-1])

    @classmethod
    def tiny(cls) -> SoftVQ:
        """Two codebooks of 16 codes of dim 4, softer than usual."""
        return cls(16, 4, 2, temperature=0.5, entropy_temperature=1.0)

    def _segments(self, latent: Tensor) -> list[Tensor]:
        tokens = F.normalize(latent, dim=-1).reshape(latent.shape[0], -1, self.dim)
        bounds = [-(-part * tokens.shape[1] // self.num_codebooks) for part in range(self.num_codebooks + 1)]
        return [tokens[:, start:end] for start, end in pairwise(bounds)]

    def _attend(self, tokens: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        values, _, indices = codebook_attention(
            tokens.reshape(-1, self.dim), codes, 1 / self.temperature, "dot"
        )
        return values.reshape(tokens.shape), indices.reshape(tokens.shape[:-1])
