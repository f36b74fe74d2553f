"""Several searches in one op: residual stages one after the other, product groups side by side."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from vistok_kernels.checks import check_finite, check_floating, check_one_device, computing_dtype
from vistok_kernels.residual import blocked
from vistok_kernels.vq import gather_backward

__all__ = ["product_codes", "residual_codes"]

_REMEDY = "look for the overflow in the encoder: a lower learning rate or float32 may cure it"


def residual_codes(latents: Tensor, codebooks: Tensor) -> tuple[Tensor, Tensor]:
    """Quantizes stage by stage: each stage finds the code nearest to what the stages before it left over.

    Each stage's search is that of ``nearest_code`` under ``euclid``. ``quantized``, the sum of the codes, passes
    gradients to the codebooks; straight-through is the caller's: ``latents + (quantized - latents).detach()``.

    On a GPU bad values cannot be raised: a latent with a NaN or Inf gets -1 at every stage, a codebook with one gives
    -1 to all latents from its stage on, and ``quantized`` is NaN there. One launch below float64.

    Source: Lee et al., Autoregressive Image Generation using Residual Quantization (2022), arXiv:2203.01941, section 3.1.

    Shapes:
        latents (N, D), codebooks (S, K, D), all at least 1 but N -> indices (N, S) int64 in [0, K), quantized (N, D)
        in float32 (float64 where one of the two is).

    Raises:
        ValueError: shapes or devices that do not match; on devices other than GPUs also NaN or Inf.
    """
    _check(latents, codebooks, 1)
    indices, quantized = _residual_codes(latents, codebooks)
    return indices, quantized


def product_codes(latents: Tensor, codebooks: Tensor) -> Tensor:
    """Finds for each group of channels the nearest code in that group's codebook, as ``nearest_code`` does.

    Not differentiable. On a GPU a group of channels with a NaN or Inf gets index -1, and a codebook with one gives -1
    to its whole group.

    Shapes:
        latents (N, G D), codebooks (G, K, D), all at least 1 but N -> (N, G) int64 in [0, K).

    Raises:
        ValueError: shapes or devices that do not match; on devices other than GPUs also NaN or Inf.
    """
    _check(latents, codebooks, len(codebooks))
    indices: Tensor = _product_codes(latents.detach(), codebooks.detach())
    return indices


def _check(latents: Tensor, codebooks: Tensor, num_groups: int) -> None:
    check_floating(latents, "latents")
    check_floating(codebooks, "codebook values")
    if codebooks.ndim != 3 or codebooks.numel() == 0:
        raise ValueError(
            f"codebooks have shape {tuple(codebooks.shape)}, it must be (S, K, D), each at least 1; torch.stack joins them"
        )
    dim = num_groups * codebooks.shape[2]
    if latents.ndim != 2 or latents.shape[1] != dim:
        raise ValueError(
            f"latents have shape {tuple(latents.shape)} and codebooks {tuple(codebooks.shape)}, latents must be (N, {dim}); "
            f"flatten them with .reshape(-1, {dim})"
        )
    check_one_device(latents, "latents", codebooks, "codebooks")


def _check_values(latents: Tensor, codebooks: Tensor) -> None:
    check_finite(codebooks, "codebook values", "reinitialise it, and look for the update that broke it")
    check_finite(latents, "latents", _REMEDY)


def _residual_blocked(latents: Tensor, codebooks: Tensor) -> tuple[Tensor, Tensor]:
    _check_values(latents, codebooks)
    with torch.autocast(latents.device.type, enabled=False):
        return blocked.residual_codes(latents, codebooks)


_residual_codes = torch.library.custom_op(
    "vistok_kernels::residual_codes", _residual_blocked, mutates_args=()
)


@_residual_codes.register_kernel("cuda")
def _(latents: Tensor, codebooks: Tensor) -> tuple[Tensor, Tensor]:
    if find_spec("triton") is None:
        return _residual_blocked(latents, codebooks)
    from vistok_kernels.residual import kernel

    return kernel.residual_codes(latents, codebooks)


@_residual_codes.register_fake
def _(latents: Tensor, codebooks: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(computing_dtype(latents), codebooks.dtype)
    indices = latents.new_empty(latents.shape[0], codebooks.shape[0], dtype=torch.int64)
    return indices, latents.new_empty(latents.shape, dtype=dtype)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[0])
    ctx.shape, ctx.dtype = inputs[1].shape, inputs[1].dtype
    ctx.mark_non_differentiable(output[0])


def _backward(ctx: Any, _: Any, gradient: Tensor) -> tuple[None, Tensor | None]:
    if not ctx.needs_input_grad[1]:
        return None, None
    (indices,) = ctx.saved_tensors
    parts = [gather_backward(gradient, chosen, ctx.shape[1]) for chosen in indices.unbind(dim=1)]
    return None, torch.stack(parts).to(ctx.dtype)


_residual_codes.register_autograd(_backward, setup_context=_keep)


def _product_blocked(latents: Tensor, codebooks: Tensor) -> Tensor:
    _check_values(latents, codebooks)
    with torch.autocast(latents.device.type, enabled=False):
        return blocked.product_codes(latents, codebooks)


_product_codes = torch.library.custom_op("vistok_kernels::product_codes", _product_blocked, mutates_args=())


@_product_codes.register_kernel("cuda")
def _(latents: Tensor, codebooks: Tensor) -> Tensor:
    if find_spec("triton") is None:
        return _product_blocked(latents, codebooks)
    from vistok_kernels.residual import kernel

    return kernel.product_codes(latents, codebooks)


@_product_codes.register_fake
def _(latents: Tensor, codebooks: Tensor) -> Tensor:
    return latents.new_empty(latents.shape[0], codebooks.shape[0], dtype=torch.int64)
