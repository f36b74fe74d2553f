"""Vector quantization: the search for the nearest code, and the statistics that move a codebook."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from vistok_kernels.checks import check_floating, check_one_device, computing_dtype
from vistok_kernels.vq import blocked

__all__ = ["code_sums", "nearest_code", "vq_step"]

METRICS = ("euclid", "cosine")


def nearest_code(latents: Tensor, codebook: Tensor, metric: str = "euclid") -> Tensor:
    """Finds the code nearest to each latent; of equally near ones the lowest index.

    The index is float64's, except where float64's two best distances differ by less than 1e-5 of
    ``|latent|^2 + |code|^2``, both measured from the middle of the codebook where that lies far from the origin.
    Arithmetic is float32, in memory O(N + K). Not differentiable. Under ``cosine`` a zero vector has cosine 0 with
    everything, and latents are to lie between 1e-18 and 1e18 in magnitude.

    On a GPU nothing waits for the device, so bad values cannot be raised there: a latent with a NaN or Inf gets index
    -1, and a codebook with one gives -1 to every latent.

    Args:
        latents: In any floating-point dtype and any strides; half precisions are widened to float32.
        codebook: Likewise.
        metric: ``euclid`` or ``cosine``.

    Shapes:
        latents (N, D), codebook (K, D), K and D at least 1 -> (N,) int64 in [0, K).

    Raises:
        ValueError: shapes or devices that do not match, an unknown metric; on devices other than GPUs also NaN or Inf.
    """
    _check_search(latents, codebook, metric)
    indices: Tensor = _nearest_code(latents.detach(), codebook.detach(), metric)
    return indices


def vq_step(
    latents: Tensor,
    codebook: Tensor,
    metric: str = "euclid",
    *,
    indices: Tensor | None = None,
    statistics: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """All that a training step of vector quantization takes from its latents, in one op.

    The search is that of ``nearest_code``. Results have the same bits at every run. Codes are rows of the codebook as
    given and the error is between latents and codes as given: under ``cosine`` it is for the caller to scale both.

    Gradients: of ``codes`` towards the codebook, added up per code, and of ``error`` towards the latents, as in the
    commitment loss ``error / latents.numel()``. Straight-through is the caller's: ``latents + (codes -
    latents).detach()``. A latent with a NaN or Inf makes ``error`` NaN or Inf on a GPU, and its codes NaN.

    Args:
        latents: In any floating-point dtype and any strides; half precisions are widened to float32.
        codebook: Likewise.
        metric: ``euclid`` or ``cosine``.
        indices: Of a search that was made already, such as that of ``residual_codes``: then there is none.
        statistics: False leaves out counts and sums, which are then empty: (0,) and (0, D).

    Shapes:
        latents (N, D), codebook (K, D), indices (N,) -> codes (N, D) in the codebook's dtype, indices (N,) int64 in [0, K),
        error (): the sum of squared differences, in float32 or float64; counts (K,) int64 of the latents that chose
        each code and sums (K, D) float32 of them.

    Raises:
        ValueError: as ``nearest_code``; on devices other than GPUs also a given index outside [0, K).
    """
    _check_search(latents, codebook, metric)
    if indices is not None:
        if indices.shape != latents.shape[:1] or indices.dtype != torch.int64:
            raise ValueError(
                f"indices are {indices.dtype} of shape {tuple(indices.shape)}, they must be int64 of shape "
                f"({len(latents)},): one for each latent"
            )
        check_one_device(latents, "latents", indices, "indices")
    codes, found, error, counts, sums = _vq_step(latents, codebook, metric, indices, statistics)
    # an op returns no input of its own
    return codes, found if indices is None else indices, error, counts, sums


def code_sums(latents: Tensor, indices: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    """Counts the latents that chose each code and adds them up: all that a codebook update needs, in memory O(N + K).

    The same bits at every run, on the CPU and in the Triton kernel. Not differentiable. On a GPU an index outside
    [0, K), such as the -1 of ``nearest_code``, is left out of both results; nothing waits for the device.

    Shapes:
        latents (N, D), indices (N,) in [0, K), K = codebook_size -> counts (K,) int64, sums (K, D) float32.

    Raises:
        ValueError: shapes or devices that do not match; on devices other than GPUs also an index outside [0, K).
    """
    check_floating(latents, "latents")
    if latents.ndim != 2 or indices.shape != latents.shape[:1]:
        raise ValueError(
            f"latents have shape {tuple(latents.shape)} and indices {tuple(indices.shape)}, they must be (N, D) and (N,)"
        )
    if indices.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"indices have dtype {indices.dtype}, it must be int64 or int32")
    if codebook_size < 1:
        raise ValueError(f"codebook_size is {codebook_size}, it must be at least 1")
    check_one_device(latents, "latents", indices, "indices")
    counts, sums = _code_sums(latents.detach(), indices, codebook_size)
    return counts, sums


def _search_blocked(latents: Tensor, codebook: Tensor, metric: str) -> Tensor:
    # a caller's autocast must not reach the products
    with torch.autocast(latents.device.type, enabled=False):
        return blocked.nearest_code(latents, codebook, metric)


_nearest_code = torch.library.custom_op("vistok_kernels::nearest_code", _search_blocked, mutates_args=())


@_nearest_code.register_kernel("cuda")
def _(latents: Tensor, codebook: Tensor, metric: str) -> Tensor:
    if find_spec("triton") is None:
        return _search_blocked(latents, codebook, metric)
    from vistok_kernels.vq import kernel

    return kernel.nearest_code(latents, codebook, metric)


@_nearest_code.register_fake
def _(latents: Tensor, codebook: Tensor, metric: str) -> Tensor:
    return latents.new_empty(latents.shape[0], dtype=torch.int64)


def _sum_blocked(latents: Tensor, indices: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    _check_indices(indices, codebook_size)
    return blocked.code_sums(latents, indices, codebook_size)


_code_sums = torch.library.custom_op("vistok_kernels::code_sums", _sum_blocked, mutates_args=())


@_code_sums.register_kernel("cuda")
def _(latents: Tensor, indices: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    if find_spec("triton") is None:
        return _sum_blocked(latents, indices, codebook_size)
    from vistok_kernels.vq import kernel

    return kernel.code_sums(latents, indices, codebook_size)


@_code_sums.register_fake
def _(latents: Tensor, indices: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    counts = latents.new_empty(codebook_size, dtype=torch.int64)
    return counts, latents.new_empty(codebook_size, latents.shape[1], dtype=torch.float32)


_Step = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _step_blocked(
    latents: Tensor, codebook: Tensor, metric: str, indices: Tensor | None, statistics: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if indices is None:
        found = _search_blocked(latents, codebook, metric)
    else:
        blocked.check_codebook(codebook)
        blocked.check_latents(latents)
        _check_indices(indices, len(codebook))
        found = indices
    with torch.autocast(latents.device.type, enabled=False):
        return _returned(
            blocked.follow(latents, codebook, found, blocked.code_sums if statistics else None), indices
        )


def _returned(results: _Step, indices: Tensor | None) -> _Step:
    """The results of a step without the indices that were given: an op may not return an input."""
    codes, found, *others = results
    return codes, found if indices is None else indices.new_empty(0), others[0], others[1], others[2]


_vq_step = torch.library.custom_op("vistok_kernels::vq_step", _step_blocked, mutates_args=())


@_vq_step.register_kernel("cuda")
def _(
    latents: Tensor, codebook: Tensor, metric: str, indices: Tensor | None, statistics: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if find_spec("triton") is None:
        return _step_blocked(latents, codebook, metric, indices, statistics)
    from vistok_kernels.vq import kernel, step_kernel

    if torch.float64 in (latents.dtype, codebook.dtype):
        # the kernel's differences are float32
        found = kernel.nearest_code(latents, codebook, metric) if indices is None else indices
        results = blocked.follow(latents, codebook, found, kernel.code_sums if statistics else None)
    else:
        results = step_kernel.vq_step(latents, codebook, metric, indices, statistics)
    return _returned(results, indices)


@_vq_step.register_fake
def _(
    latents: Tensor, codebook: Tensor, metric: str, indices: Tensor | None, statistics: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    (num_latents, dim), num_codes = latents.shape, codebook.shape[0] if statistics else 0
    return (
        codebook.new_empty(num_latents, dim),
        latents.new_empty(num_latents, dtype=torch.int64) if indices is None else indices.new_empty(0),
        latents.new_empty((), dtype=torch.promote_types(computing_dtype(latents), codebook.dtype)),
        latents.new_empty(num_codes, dtype=torch.int64),
        latents.new_empty(num_codes, dim, dtype=torch.float32),
    )


def gather_backward(gradient: Tensor, indices: Tensor, codebook_size: int) -> Tensor:
    """The gradient of a codebook whose codes were gathered: the sums, per code, of the gradients of its copies.

    Shapes:
        gradient (N, D), indices (N,) -> (K, D), K = codebook_size, in float32 (float64 for float64 gradients).
    """
    if gradient.dtype == torch.float64:
        # code_sums are float32; an index of -1 adds nothing
        known = torch.where(indices.unsqueeze(1) >= 0, gradient, 0.0)
        return gradient.new_zeros(codebook_size, gradient.shape[1]).index_add(0, indices.clamp(min=0), known)
    sums: Tensor = _code_sums(gradient, indices, codebook_size)[1]
    return sums


def _keep(
    ctx: Any, inputs: tuple[Tensor, Tensor, str, Tensor | None, bool], output: tuple[Tensor, ...]
) -> None:
    latents, codebook, _, given, _ = inputs
    codes, found, _, counts, sums = output
    ctx.save_for_backward(latents, codes, found if given is None else given)
    ctx.num_codes, ctx.codebook_dtype = codebook.shape[0], codebook.dtype
    ctx.mark_non_differentiable(found, counts, sums)
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, of_codes: Tensor | None, _: Any, of_error: Tensor | None, *others: Any
) -> tuple[Tensor | None, Tensor | None, None, None, None]:
    latents, codes, indices = ctx.saved_tensors
    to_latents = to_codebook = None
    if of_error is not None and ctx.needs_input_grad[0]:
        to_latents = (2 * of_error * (latents.to(of_error.dtype) - codes)).to(latents.dtype)
    if of_codes is not None and ctx.needs_input_grad[1]:
        to_codebook = gather_backward(of_codes, indices, ctx.num_codes).to(ctx.codebook_dtype)
    return to_latents, to_codebook, None, None, None


_vq_step.register_autograd(_backward, setup_context=_keep)


def _check_search(latents: Tensor, codebook: Tensor, metric: str) -> None:
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}, it must be one of {', '.join(METRICS)}")
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
    check_one_device(latents, "latents", codebook, "the codebook")


def _check_indices(indices: Tensor, codebook_size: int) -> None:
    if indices.numel():
        lowest, highest = torch.aminmax(indices)
        if int(lowest) < 0 or int(highest) >= codebook_size:
            raise ValueError(
                f"indices lie in [{int(lowest)}, {int(highest)}], they must lie in [0, {codebook_size}); "
                "pass the codebook_size that they were made with"
            )
