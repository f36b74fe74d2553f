"""The multi-scale search: one codebook at every resolution of a growing grid, each quantizing what the coarser ones left."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vistok_kernels.checks import check_finite, check_floating, check_one_device, computing_dtype
from vistok_kernels.multi_scale import blocked
from vistok_kernels.multi_scale.blocked import Convolutions, Five, Upstream
from vistok_kernels.multi_scale.resampling import Grid, as_grids
from vistok_kernels.vq import METRICS
from vistok_kernels.vq.blocked import searcher

__all__ = ["multi_scale_codes"]


def multi_scale_codes(
    latents: Tensor,
    codebook: Tensor,
    grids: Sequence[Grid],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    assigned: Sequence[int] = (),
    smoothing: float = 0.5,
    metric: str = "euclid",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Quantizes scale by scale: what is left is shrunk by area, searched, and its codes grown bicubically and smoothed.

    Shrinking and growing are those of ``F.interpolate`` with modes "area" and "bicubic", each scale's search that of
    ``nearest_code``. Grown codes x become ``(1 - r) x + r convolution(x)`` with r = ``smoothing`` where there are
    convolutions, and are added up. Under ``cosine`` it is the codes scaled to length 1 that are added up.

    What is left carries no gradient from scale to scale, and neither do choices. ``quantized`` passes gradients to
    codebook and convolutions; straight-through is the caller's. The squared errors of the sums up to each scale come
    twice, with equal values: ``commitment`` passes gradients to the latents alone, ``codebook_errors`` to codebook and
    convolutions alone. Divided by ``S * latents.numel()`` they are the two losses.

    On a GPU bad values cannot be raised: an image with a NaN or Inf gets index -1 at all scales, a codebook with one
    gives -1 to all images, and ``quantized`` is NaN there. One launch, whose floor ``kernel.py`` states; a few launches
    a scale in float64, for more than 256 channels or 1024 cells, and where few images would leave a GPU idle. There,
    and in gradients, convolutions take TF32 if PyTorch is set to.

    Source: Tian et al., Visual Autoregressive Modeling (2024), arXiv:2404.02905, algorithm 1.

    Args:
        latents: In any floating-point dtype and any strides; half precisions are widened to float32.
        codebook: Likewise; one for all scales.
        grids: (h_k, w_k) of every scale, coarsest first, the last being (h, w).
        weight: Of C convolutions of 3 x 3 with padding 1, or None for no smoothing.
        bias: Likewise.
        assigned: For every scale the convolution that serves it, in [0, C).
        smoothing: r, in [0, 1].
        metric: ``euclid`` or ``cosine``.

    Shapes:
        latents (B, h, w, D), codebook (K, D), S grids, weight (C, D, D, 3, 3), bias (C, D) -> indices (B, N) int64 in
        [0, K), N = sum of h_k w_k, coarsest scale first, each in raster order; quantized (B, h, w, D) in float32
        (float64 where one of the two is); compared (B, N, D): what was left, shrunk, which each index was found for,
        without a gradient; commitment (S,), codebook_errors (S,).

    Raises:
        ValueError: shapes, grids or devices that do not match, an unknown metric; on devices other than GPUs also NaN or
            Inf.
    """
    _check(latents, codebook, grids, metric)
    dtype = torch.promote_types(computing_dtype(latents), codebook.dtype)
    codes = codebook.to(dtype)
    if metric == "cosine":
        codes = F.normalize(codes, dim=1)
    if (weight is None) != (bias is None) or not 0 <= smoothing <= 1:
        raise ValueError(
            f"weight and bias go together and smoothing lies in [0, 1]: give both or neither; smoothing is {smoothing}"
        )
    if weight is None or bias is None or not len(weight):
        weight, bias, assigned = codes.new_empty(0), codes.new_empty(0), ()
    else:
        _check_convolutions(latents, weight, bias, assigned, len(grids))
        # one convolution that keeps (1 - r) of each cell
        kept = torch.eye(codes.shape[1], dtype=dtype, device=codes.device)[:, :, None, None] * (1 - smoothing)
        weight = smoothing * weight.to(dtype) + F.pad(kept, (1, 1, 1, 1))
        bias = smoothing * bias.to(dtype)
    flat = [side for grid in grids for side in grid]
    indices, quantized, compared, commitment, codebook_errors = _multi_scale_codes(
        latents, codes, weight, bias, list(assigned), flat, metric
    )
    return indices, quantized, compared, commitment, codebook_errors


def _check(latents: Tensor, codebook: Tensor, grids: Sequence[Grid], metric: str) -> None:
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}, it must be one of {', '.join(METRICS)}")
    check_floating(latents, "latents")
    check_floating(codebook, "codebook values")
    if latents.ndim != 4 or codebook.ndim != 2 or latents.shape[3] != codebook.shape[1]:
        raise ValueError(
            f"latents have shape {tuple(latents.shape)} and the codebook {tuple(codebook.shape)}, "
            "they must be (B, h, w, D) and (K, D) of one D"
        )
    if codebook.numel() == 0:
        raise ValueError(
            f"the codebook has shape {tuple(codebook.shape)}, it needs at least one code and one channel"
        )
    height, width = latents.shape[1:3]
    if not grids or tuple(grids[-1]) != (height, width):
        raise ValueError(f"the last grid must be that of the latents, {height} x {width}; grids are {grids}")
    if any(not (1 <= rows <= height and 1 <= columns <= width) for rows, columns in grids):
        raise ValueError(f"grids must lie between 1 x 1 and {height} x {width}, they are {grids}")
    check_one_device(latents, "latents", codebook, "the codebook")


def _check_convolutions(
    latents: Tensor, weight: Tensor, bias: Tensor, assigned: Sequence[int], num_scales: int
) -> None:
    num_convolutions, dim = len(weight), latents.shape[3]
    if weight.shape != (num_convolutions, dim, dim, 3, 3) or bias.shape != (num_convolutions, dim):
        raise ValueError(
            f"weight and bias have shapes {tuple(weight.shape)} and {tuple(bias.shape)}, they must be "
            f"(C, {dim}, {dim}, 3, 3) and (C, {dim})"
        )
    if len(assigned) != num_scales or any(not 0 <= number < num_convolutions for number in assigned):
        raise ValueError(
            f"assigned must name one of {num_convolutions} convolutions for each of {num_scales} scales, it is {assigned}"
        )
    check_one_device(latents, "latents", weight, "weight")


def _search_blocked(
    latents: Tensor,
    codebook: Tensor,
    weight: Tensor,
    bias: Tensor,
    assigned: Sequence[int],
    grids: Sequence[int],
    metric: str,
) -> Five:
    check_finite(codebook, "codebook values", "reinitialise it, and look for the update that broke it")
    check_finite(
        latents,
        "latents",
        "look for the overflow in the encoder: a lower learning rate or float32 may cure it",
    )
    # a caller's autocast must not reach the products
    with torch.autocast(latents.device.type, enabled=False):
        convolutions = Convolutions(weight, bias, assigned)
        result = blocked.multi_scale_codes(
            latents, codebook, convolutions, as_grids(grids), searcher(codebook, metric)
        )
    check_finite(result[1], "sums of codes", "look for convolutions whose weights grow")
    return result


_multi_scale_codes = torch.library.custom_op(
    "vistok_kernels::multi_scale_codes", _search_blocked, mutates_args=()
)


@_multi_scale_codes.register_kernel("cuda")
def _(
    latents: Tensor,
    codebook: Tensor,
    weight: Tensor,
    bias: Tensor,
    assigned: Sequence[int],
    grids: Sequence[int],
    metric: str,
) -> Five:
    if find_spec("triton") is None:
        return _search_blocked(latents, codebook, weight, bias, assigned, grids, metric)
    from vistok_kernels.multi_scale import kernel

    with torch.autocast(latents.device.type, enabled=False):
        convolutions = Convolutions(weight, bias, assigned)
        return kernel.multi_scale_codes(latents, codebook, convolutions, as_grids(grids), metric)


@_multi_scale_codes.register_fake
def _(
    latents: Tensor,
    codebook: Tensor,
    weight: Tensor,
    bias: Tensor,
    assigned: Sequence[int],
    grids: Sequence[int],
    metric: str,
) -> Five:
    batch, _, _, dim = latents.shape
    num_tokens = sum(height * width for height, width in as_grids(grids))
    return (
        latents.new_empty(batch, num_tokens, dtype=torch.int64),
        codebook.new_empty(latents.shape),
        codebook.new_empty(batch, num_tokens, dim),
        codebook.new_empty(len(grids) // 2),
        codebook.new_empty(len(grids) // 2),
    )


def _propagate(
    quantized_gradient: Tensor | None,
    commitment_gradient: Tensor | None,
    codebook_gradient: Tensor | None,
    latents: Tensor,
    codebook: Tensor,
    weight: Tensor,
    bias: Tensor,
    quantized: Tensor,
    indices: Tensor,
    assigned: Sequence[int],
    grids: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    upstream = Upstream(quantized_gradient, commitment_gradient, codebook_gradient)
    convolutions = Convolutions(weight, bias, assigned)
    with torch.autocast(latents.device.type, enabled=False):
        return blocked.backward(
            upstream, latents, codebook, convolutions, quantized, indices, as_grids(grids)
        )


_backward_op = torch.library.custom_op(
    "vistok_kernels::multi_scale_codes_backward", _propagate, mutates_args=()
)


@_backward_op.register_fake
def _(
    quantized_gradient: Tensor | None,
    commitment_gradient: Tensor | None,
    codebook_gradient: Tensor | None,
    latents: Tensor,
    codebook: Tensor,
    weight: Tensor,
    bias: Tensor,
    quantized: Tensor,
    indices: Tensor,
    assigned: Sequence[int],
    grids: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(quantized),
        torch.empty_like(codebook),
        torch.empty_like(weight),
        torch.empty_like(bias),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Five) -> None:
    *tensors, ctx.assigned, ctx.grids, _ = inputs
    ctx.save_for_backward(*tensors, output[1], output[0])
    ctx.mark_non_differentiable(output[0], output[2])
    # the gradient of what nobody used would cost the sums up to every scale
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any,
    _: Any,
    of_quantized: Tensor | None,
    __: Any,
    of_commitment: Tensor | None,
    of_codebook: Tensor | None,
) -> tuple[Any, ...]:
    if of_quantized is None and of_commitment is None and of_codebook is None:
        return (None,) * 7
    found = _backward_op(
        of_quantized, of_commitment, of_codebook, *ctx.saved_tensors, ctx.assigned, ctx.grids
    )
    to_latents: Tensor | None = None
    if of_commitment is not None and ctx.needs_input_grad[0]:
        to_latents = found[0].to(ctx.saved_tensors[0].dtype)
    reached = of_quantized is not None or of_codebook is not None
    learned = found[1:] if reached else (None,) * 3
    wanted = zip(learned, ctx.needs_input_grad[1:4], strict=True)
    return to_latents, *(part if needed else None for part, needed in wanted), None, None, None


_multi_scale_codes.register_autograd(_backward, setup_context=_keep)
