"""Lookup-free quantization: the signs of a latent as an index, and the entropies of its softmax over all corners.

A latent z chooses among the codes c in {-1, +1}^d by the softmax of ``2 * scale * <z, c>``, so that bit j is +1 with
probability ``sigmoid(4 * scale * z_j)``; ``scale`` is the inverse temperature. Codes of another length, such as the
1 / sqrt(d) of binary spherical quantization, are a smaller scale. All entropies are in nats.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from vistok_kernels.bits import blocked
from vistok_kernels.bits.blocked import entropy as distribution_entropy
from vistok_kernels.checks import check_finite, check_floating, computing_dtype

__all__ = [
    "bit_entropy",
    "bit_indices",
    "bit_probabilities",
    "bits_from_indices",
    "code_entropy",
    "distribution_entropy",
    "factorised_entropy",
    "grouped_entropy",
    "pack_bits",
]

MAX_BITS = 62
MAX_GROUP = 26


def bit_indices(latents: Tensor) -> Tensor:
    """Packs the signs of each latent into one index, the first channel being the most significant; 0 counts as negative.

    Not differentiable. On a GPU nothing waits for the device: a latent with a NaN or Inf gets index -1.

    Shapes:
        latents (..., d), 1 <= d <= 62 -> (...) int64 in [0, 2^d).

    Raises:
        ValueError: no channel or more than 62; on devices other than GPUs also NaN or Inf.
    """
    flat = _flat(latents, 1.0)
    _check_packable(flat.shape[1])
    _, indices = _bit_pack(flat.detach(), 1.0, True, False)
    packed: Tensor = indices.reshape(latents.shape[:-1])
    return packed


def bits_from_indices(indices: Tensor, num_bits: int) -> Tensor:
    """Gives the corner that each index names, the inverse of ``bit_indices``.

    On GPUs and inside ``torch.compile`` an index out of range gives NaN, since raising would wait for the device.

    Shapes:
        indices (...) in [0, 2^d), d = num_bits -> (..., d) float32 in {-1, 1}.

    Raises:
        ValueError: no bits or more than 62; on the CPU also an index out of range.
    """
    _check_packable(num_bits)
    if indices.device.type == "cpu" and not torch.compiler.is_compiling() and indices.numel():
        lowest, highest = (int(value) for value in torch.aminmax(indices))
        if lowest < 0 or highest >> num_bits:
            raise ValueError(
                f"indices lie in [{lowest}, {highest}], {num_bits} bits have codes [0, {1 << num_bits}); "
                "decode with the bits that they were made with"
            )
    places = torch.arange(num_bits - 1, -1, -1, device=indices.device)
    wide = indices.long().unsqueeze(-1)
    bits = (wide >> places & 1).float() * 2 - 1
    return bits.masked_fill((wide >> num_bits) != 0, torch.nan)


def bit_entropy(latents: Tensor, scale: float) -> Tensor:
    """Mean over latents of the entropy of each one's distribution over codes; exact, in O(N d), since bits are independent.

    Differentiable. On a GPU a NaN or Inf in the latents makes the entropy NaN.

    Args:
        latents: In any floating-point dtype and any strides; half precisions are widened to float32.
        scale: The inverse temperature, above 0; see the module.

    Shapes:
        latents (..., d) -> () in [0, d log 2], float32 (float64 for float64 latents).

    Raises:
        ValueError: no channel, a scale not above 0; on devices other than GPUs also NaN or Inf.
    """
    entropies, _ = _bit_pack(_flat(latents, scale), float(scale), False, True)
    return _mean(entropies)


def pack_bits(latents: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """``bit_indices`` and ``bit_entropy`` in one pass over the latents: all that a training step reads of them.

    Shapes:
        latents (..., d), 1 <= d <= 62 -> indices (...) int64, entropy ().

    Raises:
        ValueError: as in both.
    """
    flat = _flat(latents, scale)
    _check_packable(flat.shape[1])
    entropies, indices = _bit_pack(flat, float(scale), True, True)
    return indices.reshape(latents.shape[:-1]), _mean(entropies)


def bit_probabilities(latents: Tensor, scale: float, group_size: int | None = None) -> Tensor:
    """The mean over latents of the distribution over codes, for each group of bits: what processes average.

    Exact inside a group, in memory of one vector of 2^g values a group, forward and backward; differentiable. The mean
    of this over processes with equally many latents, then ``distribution_entropy``, is the entropy of the whole batch.
    On a GPU the products follow ``torch.get_float32_matmul_precision``, and bad latents make all values NaN.

    Args:
        latents: In any floating-point dtype; half precisions are widened to float32.
        scale: The inverse temperature, above 0; see the module.
        group_size: Bits of a group g, in channel order; None takes all d as one.

    Shapes:
        latents (..., d) -> (d / g, 2^g), rows sum to 1; the first channel of a group is the most significant.

    Raises:
        ValueError: a group size that does not divide d or is above 26, a scale not above 0; on devices other than GPUs
            also NaN or Inf.
    """
    flat = _flat(latents, scale)
    dim = flat.shape[1]
    size = dim if group_size is None else group_size
    if size < 1 or dim % size:
        raise ValueError(f"group_size is {size}, it must divide the {dim} channels")
    if size > MAX_GROUP:
        raise ValueError(
            f"2^{size} codes are too many for one vector; take grouped_entropy with groups of at most {MAX_GROUP} bits"
        )
    probabilities: Tensor = _bit_probabilities(flat, float(scale), size)
    return probabilities


def code_entropy(latents: Tensor, scale: float) -> Tensor:
    """Entropy of the batch's mean distribution over all 2^d codes: the exact batch term of LFQ and BSQ.

    Takes memory for one vector of 2^d values and two thin factors, forward and backward. See ``bit_probabilities``.

    Shapes:
        latents (..., d), d <= 26 -> () in [0, d log 2].
    """
    return distribution_entropy(bit_probabilities(latents, scale)[0])


def factorised_entropy(latents: Tensor, scale: float) -> Tensor:
    """BSQ's approximation of the batch term: the sum over bits of the entropy of each one's mean; an upper bound of it.

    Source: Zhao et al., Image and Video Tokenization with Binary Spherical Quantization (2024), arXiv:2406.07548, section 3.3.

    Shapes:
        latents (..., d) -> () in [0, d log 2].
    """
    return grouped_entropy(latents, scale, 1)


def grouped_entropy(latents: Tensor, scale: float, group_size: int) -> Tensor:
    """Between the two: exact inside each group of bits, taking the groups as independent of one another.

    Group size d gives ``code_entropy``, 1 gives ``factorised_entropy``; larger groups give a closer upper bound.

    Shapes:
        latents (..., d), d a multiple of group_size -> () in [0, d log 2].
    """
    return distribution_entropy(bit_probabilities(latents, scale, group_size)).sum()


def _flat(latents: Tensor, scale: float) -> Tensor:
    check_floating(latents, "latents")
    if latents.ndim == 0 or latents.shape[-1] == 0:
        raise ValueError(f"latents have shape {tuple(latents.shape)}, they need a last dimension of channels")
    if not scale > 0:
        raise ValueError(f"scale is {scale}, it must be above 0")
    return latents.reshape(-1, latents.shape[-1])


def _check_packable(num_bits: int) -> None:
    if not 1 <= num_bits <= MAX_BITS:
        raise ValueError(
            f"{num_bits} bits do not pack into one index, 1 to {MAX_BITS} do; keep them as bit labels, or split the channels"
        )


def _mean(entropies: Tensor) -> Tensor:
    return entropies.sum() / max(entropies.shape[0], 1)


def _check(latents: Tensor) -> None:
    check_finite(
        latents,
        "latents",
        "look for the overflow in the encoder: a lower learning rate or float32 may cure it",
    )


def _pack_blocked(latents: Tensor, scale: float, pack: bool, entropy: bool) -> tuple[Tensor, Tensor]:
    _check(latents)
    return blocked.bit_pack(latents, scale, pack, entropy)


def _probabilities_checked(latents: Tensor, scale: float, group_size: int) -> Tensor:
    _check(latents)
    return _probabilities_blocked(latents, scale, group_size)


def _probabilities_blocked(latents: Tensor, scale: float, group_size: int) -> Tensor:
    # a caller's autocast must not reach the products
    with torch.autocast(latents.device.type, enabled=False):
        return blocked.mean_probabilities(latents, scale, group_size)


def _probabilities_backward_blocked(
    gradient: Tensor, latents: Tensor, scale: float, group_size: int
) -> Tensor:
    with torch.autocast(latents.device.type, enabled=False):
        return blocked.mean_probabilities_backward(gradient, latents, scale, group_size)


_bit_pack = torch.library.custom_op("vistok_kernels::bit_pack", _pack_blocked, mutates_args=())
_bit_entropies_backward = torch.library.custom_op(
    "vistok_kernels::bit_entropies_backward", blocked.bit_entropies_backward, mutates_args=()
)
_bit_probabilities = torch.library.custom_op(
    "vistok_kernels::bit_probabilities", _probabilities_checked, mutates_args=()
)
_bit_probabilities_backward = torch.library.custom_op(
    "vistok_kernels::bit_probabilities_backward", _probabilities_backward_blocked, mutates_args=()
)
# cuBLAS is the better tool for the two products, see kernel.py; the check would wait for the device
_bit_probabilities.register_kernel("cuda")(_probabilities_blocked)


@_bit_pack.register_kernel("cuda")
def _(latents: Tensor, scale: float, pack: bool, entropy: bool) -> tuple[Tensor, Tensor]:
    if find_spec("triton") is None:
        return _pack_blocked(latents, scale, pack, entropy)
    from vistok_kernels.bits import kernel

    return kernel.bit_pack(latents, scale, pack, entropy)


@_bit_pack.register_fake
def _(latents: Tensor, scale: float, pack: bool, entropy: bool) -> tuple[Tensor, Tensor]:
    entropies = latents.new_empty(latents.shape[0] if entropy else 0, dtype=computing_dtype(latents))
    return entropies, latents.new_empty(latents.shape[0] if pack else 0, dtype=torch.int64)


@_bit_entropies_backward.register_kernel("cuda")
def _(gradient: Tensor, latents: Tensor, scale: float) -> Tensor:
    if find_spec("triton") is None:
        return blocked.bit_entropies_backward(gradient, latents, scale)
    from vistok_kernels.bits import kernel

    return kernel.bit_entropies_backward(gradient, latents, scale)


@_bit_entropies_backward.register_fake
def _(gradient: Tensor, latents: Tensor, scale: float) -> Tensor:
    return latents.new_empty(latents.shape)


@_bit_probabilities.register_fake
def _(latents: Tensor, scale: float, group_size: int) -> Tensor:
    shape = (latents.shape[1] // group_size, 2**group_size)
    return latents.new_empty(shape, dtype=computing_dtype(latents))


@_bit_probabilities_backward.register_fake
def _(gradient: Tensor, latents: Tensor, scale: float, group_size: int) -> Tensor:
    return latents.new_empty(latents.shape)


def _keep_pack(ctx: Any, inputs: tuple[Tensor, float, bool, bool], output: tuple[Tensor, Tensor]) -> None:
    latents, ctx.scale, _, ctx.has_entropy = inputs
    ctx.save_for_backward(latents)
    ctx.mark_non_differentiable(output[1])


def _pack_backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor | None, None, None, None]:
    (latents,) = ctx.saved_tensors
    below = _bit_entropies_backward(gradient, latents, ctx.scale) if ctx.has_entropy else None
    return below, None, None, None


def _keep_probabilities(ctx: Any, inputs: tuple[Tensor, float, int], output: Tensor) -> None:
    latents, ctx.scale, ctx.group_size = inputs
    ctx.save_for_backward(latents)


def _probabilities_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    (latents,) = ctx.saved_tensors
    return _bit_probabilities_backward(gradient, latents, ctx.scale, ctx.group_size), None, None


_bit_pack.register_autograd(_pack_backward, setup_context=_keep_pack)
_bit_probabilities.register_autograd(_probabilities_backward, setup_context=_keep_probabilities)
