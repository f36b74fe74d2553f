"""What the bit ops compute, densely over all 2^d codes and in the plainest PyTorch: the definition of correct.

The codes of a lookup-free quantizer are the corners c of {-1, +1}^d, and a latent z chooses among them by the softmax of
``2 * scale * <z, c>``: ``scale`` is the inverse temperature of Open-MAGVIT2 and vector-quantize-pytorch. The softmax
factorises over bits, and the bit j is +1 with probability ``sigmoid(4 * scale * z_j)``.

Source: Yu et al., Language Model Beats Diffusion (2023), arXiv:2310.05737, section 3.1, for the entropies; Zhao et al.,
Image and Video Tokenization with Binary Spherical Quantization (2024), arXiv:2406.07548, section 3.3, for the factors.
"""

from __future__ import annotations

import torch
from torch import Tensor


def bit_indices(latents: Tensor) -> Tensor:
    """Packs the signs, the first channel being the most significant; 0 counts as negative.

    Shapes:
        latents (..., d) -> (...) in [0, 2^d).
    """
    indices = torch.zeros(latents.shape[:-1], dtype=torch.int64, device=latents.device)
    for channel in latents.unbind(dim=-1):
        indices = 2 * indices + (channel > 0).long()
    return indices


def bits_from_indices(indices: Tensor, num_bits: int) -> Tensor:
    """The signs that an index packs.

    Shapes:
        indices (...) in [0, 2^d), d = num_bits -> (..., d) in {-1, 1}.
    """
    bits = [indices // 2**position % 2 for position in reversed(range(num_bits))]
    return torch.stack(bits, dim=-1).float() * 2 - 1


def probabilities(latents: Tensor, scale: float) -> Tensor:
    """The softmax over all codes, as the definition has it.

    Shapes:
        latents (N, d) -> (N, 2^d), rows sum to 1.
    """
    num_bits = latents.shape[1]
    codes = bits_from_indices(torch.arange(2**num_bits, device=latents.device), num_bits).to(latents)
    return (2 * scale * latents @ codes.T).softmax(dim=1)


def entropy(distribution: Tensor) -> Tensor:
    """Entropy in nats along the last dimension: (..., K) -> (...)."""
    total: Tensor = torch.special.entr(distribution).sum(dim=-1)
    return total


def bit_entropy(latents: Tensor, scale: float) -> Tensor:
    """Mean entropy of the single latents' distributions over codes: (N, d) -> ()."""
    return entropy(probabilities(latents, scale)).mean()


def code_entropy(latents: Tensor, scale: float) -> Tensor:
    """Entropy of the mean distribution over codes: (N, d) -> ()."""
    return entropy(probabilities(latents, scale).mean(dim=0))


def grouped_entropy(latents: Tensor, scale: float, group_size: int) -> Tensor:
    """Sum over groups of bits of the entropy of the group's mean distribution: (N, d) -> ()."""
    return torch.stack(
        [code_entropy(group, scale) for group in torch.split(latents, group_size, dim=1)]
    ).sum()
