"""Finite scalar quantization: rounding to a fixed grid, and the exact index of each point of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from vistok_kernels.checks import check_finite, check_floating, computing_dtype
from vistok_kernels.fsq import elementwise
from vistok_kernels.fsq.levels import channels, check_levels

__all__ = ["fsq", "fsq_decode"]


def fsq(latents: Tensor, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Rounds every channel to one of its levels and packs the choices into one index.

    The first level is the least significant; index arithmetic is int64, exact to 2^62 codes. The gradient passes the
    rounding unchanged, so it is the tanh bound's. A level above 1000 has outermost steps that the bound never reaches.

    On a GPU nothing waits for the device, so bad values cannot be raised there: a latent with a NaN or Inf gets index
    -1, and NaN as the quantized value of that channel.

    Source: Mentzer et al., Finite Scalar Quantization (2023), arXiv:2309.15505, section 3.1 and appendix A.1.

    Args:
        latents: In any floating-point dtype and any strides; half precisions are widened to float32.
        levels: Steps per channel, each at least 2. ``(8, 5, 5, 5)`` gives 1000 codes of dim 4.

    Shapes:
        latents (..., D), D = len(levels) -> quantized (..., D) in [-1, 1], float32 (float64 for float64 latents),
        indices (...) int64 in [0, prod(levels)).

    Raises:
        ValueError: a level below 2, more than 2^62 codes, or a last dimension that is not D; on devices other than
            GPUs also NaN or Inf.
    """
    check_levels(levels)
    check_floating(latents, "latents")
    dim = len(levels)
    if latents.ndim == 0 or latents.shape[-1] != dim:
        raise ValueError(
            f"latents have shape {tuple(latents.shape)}, the last dimension must be {dim}: one channel a level"
        )
    quantized, indices = _fsq(latents.reshape(-1, dim), list(levels))
    return quantized.reshape(latents.shape), indices.reshape(latents.shape[:-1])


def fsq_decode(indices: Tensor, levels: Sequence[int]) -> Tensor:
    """Gives the point of the grid that each index names, bit for bit what ``fsq`` gave with it.

    On GPUs and inside ``torch.compile`` the range is not checked, since that would wait for the device.

    Shapes:
        indices (...) int64 in [0, prod(levels)) -> (..., D) float32 in [-1, 1].

    Raises:
        ValueError: a level below 2, more than 2^62 codes; on the CPU also an index out of range.
    """
    check_levels(levels)
    num_codes = math.prod(levels)
    if indices.device.type == "cpu" and not torch.compiler.is_compiling() and indices.numel():
        lowest, highest = (int(value) for value in torch.aminmax(indices))
        if lowest < 0 or highest >= num_codes:
            raise ValueError(
                f"indices lie in [{lowest}, {highest}], levels {tuple(levels)} have codes [0, {num_codes}); "
                "decode with the levels that they were made with"
            )
    of = channels(levels, torch.float32, indices.device)
    sizes = torch.tensor(list(levels), dtype=torch.int64, device=indices.device)
    digits = indices.long().unsqueeze(-1) // of.bases % sizes
    return (digits - of.half_widths).float() / of.half_widths


def _quantize_elementwise(latents: Tensor, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    check_finite(
        latents,
        "latents",
        "look for the overflow in the encoder: a lower learning rate or float32 may cure it",
    )
    return elementwise.fsq(latents, levels)


_fsq = torch.library.custom_op("vistok_kernels::fsq", _quantize_elementwise, mutates_args=())
_fsq_backward = torch.library.custom_op(
    "vistok_kernels::fsq_backward", elementwise.fsq_backward, mutates_args=()
)


@_fsq.register_kernel("cuda")
def _(latents: Tensor, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    if find_spec("triton") is None:
        return _quantize_elementwise(latents, levels)
    from vistok_kernels.fsq import kernel

    return kernel.fsq(latents, levels)


@_fsq.register_fake
def _(latents: Tensor, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    quantized = latents.new_empty(latents.shape, dtype=computing_dtype(latents))
    return quantized, latents.new_empty(latents.shape[0], dtype=torch.int64)


@_fsq_backward.register_kernel("cuda")
def _(gradient: Tensor, latents: Tensor, levels: Sequence[int]) -> Tensor:
    if find_spec("triton") is None:
        return elementwise.fsq_backward(gradient, latents, levels)
    from vistok_kernels.fsq import kernel

    return kernel.fsq_backward(gradient, latents, levels)


@_fsq_backward.register_fake
def _(gradient: Tensor, latents: Tensor, levels: Sequence[int]) -> Tensor:
    return latents.new_empty(latents.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, list[int]], output: tuple[Tensor, Tensor]) -> None:
    latents, ctx.levels = inputs
    ctx.save_for_backward(latents)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, None]:
    (latents,) = ctx.saved_tensors
    return _fsq_backward(gradient, latents, ctx.levels), None


_fsq.register_autograd(_backward, setup_context=_keep)
