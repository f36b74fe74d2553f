"""What attention over a codebook computes, with the whole N x K matrix and in the plainest PyTorch: the definition of correct."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def logits(latents: Tensor, codebook: Tensor, scale: float, metric: str) -> Tensor:
    """``scale`` times the inner product, the negative squared distance, or the cosine, of each latent and code.

    Shapes:
        latents (N, D), codebook (K, D) -> (N, K).
    """
    if metric == "dot":
        return scale * latents @ codebook.T
    if metric == "euclid":
        return -scale * (latents[:, None] - codebook[None]).square().sum(dim=-1)
    return scale * F.normalize(latents, dim=1) @ F.normalize(codebook, dim=1).T


def codebook_attention(
    latents: Tensor, codebook: Tensor, scale: float, metric: str = "dot"
) -> tuple[Tensor, Tensor, Tensor]:
    """The softmax-weighted sum of codes, the logarithm of the softmax's denominator, and the likeliest code.

    Shapes:
        latents (N, D), codebook (K, D) -> values (N, D), logsumexp (N,), indices (N,) in [0, K).
    """
    scores = logits(latents, codebook, scale, metric)
    return scores.softmax(dim=1) @ codebook, scores.logsumexp(dim=1), scores.argmax(dim=1)


def codebook_entropy(
    latents: Tensor, codebook: Tensor, scale: float, metric: str = "dot"
) -> tuple[Tensor, Tensor]:
    """Mean entropy of the single latents' distributions over codes, and the entropy of their mean, in nats.

    Shapes:
        latents (N, D), codebook (K, D) -> (), ().
    """
    probabilities = logits(latents, codebook, scale, metric).softmax(dim=1)
    sample = torch.special.entr(probabilities).sum(dim=1).mean()
    return sample, torch.special.entr(probabilities.mean(dim=0)).sum()


def index_softmax(
    latents: Tensor, codebook: Tensor, scale: float, metric: str = "dot"
) -> tuple[Tensor, Tensor]:
    """The likeliest code; in the backward pass the choice is the softmax, so that every code has a gradient.

    Source: Shi et al., Scalable Image Tokenization with Index Backpropagation Quantization (2024), arXiv:2412.02692,
    section 3.2.

    Shapes:
        latents (N, D), codebook (K, D) -> codes (N, D), indices (N,) in [0, K).
    """
    soft = logits(latents, codebook, scale, metric).softmax(dim=1)
    indices = soft.argmax(dim=1)
    hard = F.one_hot(indices, len(codebook)).to(soft)
    return (hard + (soft - soft.detach())) @ codebook, indices
