"""What the multi-scale search computes, in float64 and the plainest PyTorch: the definition of correct."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vistok_kernels.vq import reference


def multi_scale_codes(
    latents: Tensor,
    codebook: Tensor,
    grids: Sequence[tuple[int, int]],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    assigned: Sequence[int] = (),
    smoothing: float = 0.5,
    metric: str = "euclid",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The published loop: shrink what is left, search, grow the codes, smooth them, add them; differentiable.

    Source: Tian et al., Visual Autoregressive Modeling (2024), arXiv:2404.02905, algorithm 1.

    Shapes:
        As those of ``vistok_kernels.multi_scale_codes``, in float64.
    """
    latents, codebook = latents.double(), codebook.double()
    if metric == "cosine":
        codebook = F.normalize(codebook, dim=1)
    total = torch.zeros_like(latents)
    chosen, compared, commitment, codebook_errors = [], [], [], []
    for number, grid in enumerate(grids):
        left = _planes((latents - total).detach())
        shrunk = F.interpolate(left, size=grid, mode="area").movedim(1, -1)
        indices = reference.nearest_code(shrunk.flatten(0, 2), codebook.detach(), metric)
        codes = codebook[indices].reshape(shrunk.shape)
        grown = F.interpolate(_planes(codes), size=grids[-1], mode="bicubic")
        if weight is not None and bias is not None and len(weight):
            convolution = weight[assigned[number]].double(), bias[assigned[number]].double()
            grown = (1 - smoothing) * grown + smoothing * F.conv2d(grown, *convolution, padding=1)
        total = total + grown.movedim(1, -1)
        chosen.append(indices.reshape(len(latents), grid[0] * grid[1]))
        compared.append(shrunk.flatten(1, 2))
        commitment.append((latents - total.detach()).square().sum())
        codebook_errors.append((total - latents.detach()).square().sum())
    return (
        torch.cat(chosen, dim=1),
        total,
        torch.cat(compared, dim=1),
        torch.stack(commitment),
        torch.stack(codebook_errors),
    )


def _planes(image: Tensor) -> Tensor:
    return image.movedim(-1, 1)
