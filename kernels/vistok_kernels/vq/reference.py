"""What the vector-quantization ops compute, in float64 and the plainest PyTorch: the definition of correct."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def distances(latents: Tensor, codebook: Tensor, metric: str = "euclid") -> Tensor:
    """Squared euclidean distance, or one minus the cosine, of every latent to every code.

    A zero vector has cosine 0 with everything.

    Shapes:
        latents (N, D), codebook (K, D) -> (N, K) in float64.
    """
    latents, codebook = latents.double(), codebook.double()
    if metric == "cosine":
        return 1 - F.normalize(latents, dim=1) @ F.normalize(codebook, dim=1).T
    # one latent at a time: the differences of all would be an N x K x D tensor
    rows = [(codebook - latent).square().sum(dim=1) for latent in latents]
    return torch.stack(rows) if rows else latents.new_empty(0, codebook.shape[0])


def nearest_code(latents: Tensor, codebook: Tensor, metric: str = "euclid") -> Tensor:
    """The index of the code nearest to each latent; of equally near ones the lowest.

    Shapes:
        latents (N, D), codebook (K, D) -> (N,) in [0, K).
    """
    return distances(latents, codebook, metric).argmin(dim=1)


def code_sums(latents: Tensor, indices: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    """How many latents chose each code, and the sum of those latents.

    Shapes:
        latents (N, D), indices (N,) in [0, K) -> counts (K,), sums (K, D) in float64.
    """
    chosen = F.one_hot(indices, codebook_size)
    return chosen.sum(dim=0), chosen.double().T @ latents.double()


def vq_step(
    latents: Tensor, codebook: Tensor, metric: str = "euclid"
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The codes and indices of latents, the sum of squared differences to them, and ``code_sums``; differentiable.

    Codes pass gradients to the codebook, the error to the latents alone.

    Shapes:
        latents (N, D), codebook (K, D) -> (N, D), (N,) in [0, K), (), (K,), (K, D); in float64.
    """
    indices = nearest_code(latents.detach(), codebook.detach(), metric)
    codes = codebook.double()[indices]
    error = (latents.double() - codes.detach()).square().sum()
    return codes, indices, error, *code_sums(latents.detach(), indices, len(codebook))
