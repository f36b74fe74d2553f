"""The PyTorch path of the bit ops; the mean over codes is a matrix product on GPUs too, where cuBLAS is the better tool."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from vistok_kernels.checks import computing_dtype

# 2 MiB for each of the few temporaries of a block
_VALUES = 2**19
# e^-1000 is 0, and 1000 times it too: an overflow times it would be NaN
_STRONGEST = 1000.0


def bit_pack(latents: Tensor, scale: float, pack: bool, entropy: bool) -> tuple[Tensor, Tensor]:
    """Entropies and indices of latents (N, d), each (N,); what is not asked for comes back empty."""
    indices = bit_indices(latents) if pack else torch.empty(0, dtype=torch.int64, device=latents.device)
    nothing = latents.new_empty(0, dtype=computing_dtype(latents))
    return bit_entropies(latents, scale) if entropy else nothing, indices


def bit_indices(latents: Tensor) -> Tensor:
    """Latents (N, d) -> (N,) int64. Floor: 4 N d + 8 N bytes."""
    num_bits = latents.shape[1]
    places = torch.arange(num_bits - 1, -1, -1, device=latents.device)
    return ((latents > 0).long() << places).sum(dim=1)


def bit_entropies(latents: Tensor, scale: float) -> Tensor:
    """Entropy in nats of each latent's distribution over codes, (N, d) -> (N,). Floor: 4 N d + 4 N bytes."""
    strength = latents.to(computing_dtype(latents)).mul(4 * scale).abs_().clamp_(max=_STRONGEST)
    # -p log p - q log q with p = sigmoid(a), without the logarithm of a rounded p
    return (torch.log1p(torch.exp(-strength)) + strength * torch.sigmoid(-strength)).sum(dim=1)


def bit_entropies_backward(gradient: Tensor, latents: Tensor, scale: float) -> Tensor:
    """Gradient of the entropies (N,) -> of the latents (N, d). Floor: 8 N d + 4 N bytes."""
    logits = (latents.to(computing_dtype(latents)) * (4 * scale)).clamp_(-_STRONGEST, _STRONGEST)
    slope = logits * torch.sigmoid(logits) * torch.sigmoid(-logits) * (-4 * scale)
    return (slope * gradient[:, None]).to(latents.dtype)


def mean_probabilities(latents: Tensor, scale: float, group_size: int) -> Tensor:
    """The mean over latents of each group's distribution over its 2^g codes: (N, G * g) -> (G, 2^g).

    The halves of a group's bits are independent given the latent, so the mean is a product of two factors of 2^(g/2)
    columns: never N x 2^g values, and 2 N 2^g flops a group where the plain softmax takes 2 N g 2^g and an exponential
    for each. Floor: 4 N d + 4 G 2^g bytes.
    """
    num_latents, dim = latents.shape
    num_groups, first = dim // group_size, group_size // 2
    total = latents.new_zeros(num_groups, 2**first, 2 ** (group_size - first), dtype=computing_dtype(latents))
    for _, logits in _blocks(latents, scale, group_size):
        high, low = _factors(logits, first)
        total.baddbmm_(high.transpose(1, 2), low)
    return total.div_(max(num_latents, 1)).view(num_groups, 2**group_size)


def mean_probabilities_backward(gradient: Tensor, latents: Tensor, scale: float, group_size: int) -> Tensor:
    """Gradient of the mean distributions (G, 2^g) -> of the latents (N, d); the factors are computed anew.

    Floor: 8 N d + 4 G 2^g bytes, 4 N 2^g flops a group.
    """
    num_latents, dim = latents.shape
    num_groups, first = dim // group_size, group_size // 2
    above = gradient.reshape(num_groups, 2**first, 2 ** (group_size - first)).to(computing_dtype(latents))
    below = torch.empty_like(latents, memory_format=torch.contiguous_format)
    for rows, logits in _blocks(latents, scale, group_size):
        high, low = _factors(logits, first)
        weights_high = torch.bmm(low, above.transpose(1, 2)).mul_(high)
        weights_low = torch.bmm(high, above).mul_(low)
        parts = [_to_logits(weights_high, logits[..., :first]), _to_logits(weights_low, logits[..., first:])]
        slope = torch.cat(parts, dim=2).mul_(4 * scale / num_latents)
        below[rows] = slope.transpose(0, 1).reshape(-1, dim).to(below.dtype)
    return below


def _blocks(latents: Tensor, scale: float, group_size: int) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of rows and their logits (G, rows, g), each such that its factors stay near the cache."""
    num_latents, dim = latents.shape
    num_groups = dim // group_size
    num_rows = max(1, _VALUES // (num_groups * 2 ** (group_size - group_size // 2)))
    for start in range(0, num_latents, num_rows):
        rows = slice(start, start + num_rows)
        block = latents[rows].to(computing_dtype(latents))
        # an Inf would pass for a bit without doubt: as NaN it reaches the mean, where nothing could raise
        logits = block * (4 * scale) + block * 0
        yield rows, logits.view(-1, num_groups, group_size).transpose(0, 1)


def _factors(logits: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Distributions over the codes of the first bits and of the rest: (G, R, g) -> (G, R, 2^first), (G, R, 2^rest)."""
    return _joint(logits[..., :first]), _joint(logits[..., first:])


def _joint(logits: Tensor) -> Tensor:
    """Probability of every combination of independent bits, the first the most significant: (..., b) -> (..., 2^b)."""
    joint = logits.new_ones(*logits.shape[:-1], 1) if logits.shape[-1] == 0 else None
    for one, zero in zip(torch.sigmoid(logits).unbind(-1), torch.sigmoid(-logits).unbind(-1), strict=True):
        pair = torch.stack((zero, one), dim=-1)
        joint = pair if joint is None else (joint.unsqueeze(-1) * pair.unsqueeze(-2)).flatten(-2)
    assert joint is not None
    return joint


def _to_logits(weights: Tensor, logits: Tensor) -> Tensor:
    """Gradient of the logarithms of joint probabilities, (G, R, 2^b), -> of the bits' logits (G, R, b).

    A bit's logit raises the codes that have it by its chance to be 0, and lowers the others by its chance to be 1:
    two sums without the cancellation that one would have where a chance is near 1.
    """
    num_bits = logits.shape[-1]
    if num_bits == 0:
        return torch.zeros_like(logits)
    places = torch.arange(num_bits - 1, -1, -1, device=weights.device)
    has = (torch.arange(2**num_bits, device=weights.device)[:, None] >> places & 1).to(weights.dtype)
    table = torch.cat((has, 1 - has), dim=1)
    ones, zeros = torch.split(weights @ table, num_bits, dim=-1)
    slope: Tensor = ones * torch.sigmoid(-logits) - zeros * torch.sigmoid(logits)
    return slope


def entropy(distribution: Tensor) -> Tensor:
    """Entropy in nats along the last dimension, with a finite gradient also where a probability has underflowed to 0."""
    tiny = torch.finfo(distribution.dtype).tiny
    return -(distribution * F.threshold(distribution, tiny, tiny).log()).sum(dim=-1)
