"""Attention over a codebook: latents ask, codes are keys and values, and the N x K matrix of scores is never held.

The score of latent z and code c is ``scale`` times <z, c> (``dot``), -|z - c|^2 (``euclid``) or their cosine (``cosine``),
and a latent's distribution over codes is the softmax of its scores. ``scale`` is an inverse temperature; entropies are
in nats. Everything is differentiable once, in latents and codebook, in memory O(N + K) forward and backward: the
gradients, and for ``euclid`` and ``cosine`` a few tensors of the codebook's size, are what a call adds to its inputs.

On a GPU nothing waits for the device: a latent with a NaN or Inf gets index -1 and NaN as everything else, a codebook
with one gives this to all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vistok_kernels.attention import ops
from vistok_kernels.attention.blocked import Scores
from vistok_kernels.bits.blocked import entropy
from vistok_kernels.checks import check_floating

__all__ = ["codebook_attention", "codebook_entropy", "codebook_probabilities", "index_softmax"]

METRICS = ("dot", "euclid", "cosine")


def codebook_attention(
    latents: Tensor, codebook: Tensor, scale: float, metric: str = "dot"
) -> tuple[Tensor, Tensor, Tensor]:
    """Mixes the codes by each latent's softmax over them: SoftVQ's quantization.

    Source: Chen et al., SoftVQ-VAE (2024), arXiv:2412.10958, section 3.2; Dao et al., FlashAttention (2022),
    arXiv:2205.14135, for the online softmax and its backward pass.

    Args:
        latents: In any floating-point dtype and any strides; half precisions are widened to float32.
        codebook: Likewise. The codes are mixed as they are, also under ``cosine``.
        scale: Inverse temperature, above 0.
        metric: ``dot``, ``euclid`` or ``cosine``; a zero vector has cosine 0 with everything.

    Shapes:
        latents (N, D), codebook (K, D) -> values (N, D), logsumexp of the scores (N,), both float32 (float64 for float64
        inputs), and the likeliest code (N,) int64 in [0, K), of equally likely ones the lowest.

    Raises:
        ValueError: shapes or devices that do not match, an unknown metric, a scale not above 0; on devices other than
            GPUs also NaN or Inf, or scores beyond the dtype's range.
    """
    scores, center, offset = _scores(latents, codebook, scale, metric)
    values, logsumexp, indices = ops.attention(*scores, True)
    return values if center is None else values + center, _sum(logsumexp, offset), indices


def index_softmax(
    latents: Tensor, codebook: Tensor, scale: float, metric: str = "dot"
) -> tuple[Tensor, Tensor]:
    """Chooses the likeliest code; in the backward pass the choice is the softmax, so that every code has a gradient.

    With one-hot h and softmax p the result is ``(h + p - stop_gradient(p)) @ codebook``: latents and all codes learn
    through p, the chosen code as part of the result too.

    Source: Shi et al., Scalable Image Tokenization with Index Backpropagation Quantization (2024), arXiv:2412.02692,
    section 3.2, with ``dot`` and a scale of 1.

    Shapes:
        latents (N, D), codebook (K, D) -> codes (N, D), indices (N,) int64 in [0, K).

    Raises:
        ValueError: as ``codebook_attention``.
    """
    scores, _, _ = _scores(latents, codebook, scale, metric)
    soft, _, indices = ops.attention(*scores, False)
    chosen = codebook.detach().to(soft.dtype)[indices.clamp(min=0)]
    # the NaN of a bad latent reaches its code
    return chosen + (soft - soft.detach()), indices


def codebook_probabilities(
    latents: Tensor, codebook: Tensor, scale: float, metric: str = "dot"
) -> tuple[Tensor, Tensor]:
    """The mean entropy of the latents' distributions over codes, and their mean distribution: what processes average.

    The mean of the second over processes with equally many latents, then ``distribution_entropy``, is the entropy of
    the whole batch.

    Shapes:
        latents (N, D), codebook (K, D) -> sample entropy () in [0, log K], probabilities (K,), which sum to 1.

    Raises:
        ValueError: as ``codebook_attention``.
    """
    scores, _, _ = _scores(latents, codebook, scale, metric)
    entropies, probabilities, _ = ops.statistics(*scores)
    return entropies.sum() / max(entropies.shape[0], 1), probabilities


def codebook_entropy(
    latents: Tensor, codebook: Tensor, scale: float, metric: str = "dot"
) -> tuple[Tensor, Tensor]:
    """Mean entropy of the latents' distributions over codes, and the entropy of their mean: to make low, and high.

    Shapes:
        latents (N, D), codebook (K, D) -> sample entropy (), batch entropy (), both in [0, log K].

    Raises:
        ValueError: as ``codebook_attention``.
    """
    sample, probabilities = codebook_probabilities(latents, codebook, scale, metric)
    return sample, entropy(probabilities)


def _scores(
    latents: Tensor, codebook: Tensor, scale: float, metric: str
) -> tuple[Scores, Tensor | None, Tensor | None]:
    """Brings a metric to the common form; also what was taken from the codes (D,) and from the scores (N,), if anything."""
    _check_arguments(latents, codebook, scale, metric)
    dtype = torch.promote_types(torch.promote_types(latents.dtype, codebook.dtype), torch.float32)
    latents, codebook = latents.to(dtype), codebook.to(dtype)
    if metric == "dot":
        return Scores(latents * scale, codebook, None, None), None, None
    if metric == "cosine":
        return (
            Scores(
                latents * (scale * _inverse_length(latents)), codebook, _inverse_length(codebook)[:, 0], None
            ),
            None,
            None,
        )
    # squares of large coordinates lose what tells near codes apart; distances are the same from any origin
    center = codebook.detach().mean(dim=0)
    latents, codebook = latents - center, codebook - center
    # the norm, whose gradient takes one tensor of the codebook's size where that of the squares takes three
    bias = torch.linalg.vector_norm(codebook, dim=1).square() * -scale
    return Scores(latents * (2 * scale), codebook, None, bias), center, latents.square().sum(dim=1) * -scale


def _inverse_length(vectors: Tensor) -> Tensor:
    """One over the length of each row, 0 for a zero one, whose gradient is 0 too: (R, D) -> (R, 1)."""
    length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    some = length != 0
    return torch.where(some, 1 / torch.where(some, length, 1), 0)


def _sum(first: Tensor, second: Tensor | None) -> Tensor:
    return first if second is None else first + second


def _check_arguments(latents: Tensor, codebook: Tensor, scale: float, metric: str) -> None:
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}, it must be one of {', '.join(METRICS)}")
    if not scale > 0:
        raise ValueError(f"scale is {scale}, it must be above 0")
    check_floating(latents, "latents")
    check_floating(codebook, "codebook values")
    if latents.ndim != 2 or codebook.ndim != 2 or latents.shape[1] != codebook.shape[1]:
        raise ValueError(
            f"latents have shape {tuple(latents.shape)} and the codebook {tuple(codebook.shape)}, "
            "they must be (N, D) and (K, D) of one D; flatten latents with .reshape(-1, D)"
        )
    if codebook.numel() == 0:
        raise ValueError(
            f"the codebook has shape {tuple(codebook.shape)}, it needs at least one code and one channel"
        )
    if latents.device != codebook.device:
        raise ValueError(
            f"latents are on {latents.device} and the codebook on {codebook.device}; move one with .to()"
        )
