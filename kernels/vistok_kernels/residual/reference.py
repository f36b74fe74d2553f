"""What the residual and product searches compute, in float64 and the plainest PyTorch: the definition of correct."""

from __future__ import annotations

import torch
from torch import Tensor

from vistok_kernels.vq import reference


def residual_codes(latents: Tensor, codebooks: Tensor) -> tuple[Tensor, Tensor]:
    """Each stage's nearest code to what the stages before it left over, and the sum of those codes; differentiable.

    Shapes:
        latents (N, D), codebooks (S, K, D) -> indices (N, S) in [0, K), quantized (N, D) in float64.
    """
    left = latents.detach().double()
    quantized = torch.zeros_like(left)
    chosen = []
    for codebook in codebooks.double():
        indices = reference.nearest_code(left, codebook.detach())
        quantized = quantized + codebook[indices]
        left = left - codebook[indices].detach()
        chosen.append(indices)
    return torch.stack(chosen, dim=1), quantized


def product_codes(latents: Tensor, codebooks: Tensor) -> Tensor:
    """The nearest code to each group of channels, in that group's codebook.

    Shapes:
        latents (N, G D), codebooks (G, K, D) -> indices (N, G) in [0, K).
    """
    groups = latents.double().chunk(len(codebooks), dim=1)
    pairs = zip(groups, codebooks.double(), strict=True)
    return torch.stack([reference.nearest_code(part, codebook) for part, codebook in pairs], dim=1)
