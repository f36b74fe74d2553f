"""Vector quantization: the search for the nearest code, and the statistics that move a codebook."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from vistok_kernels.checks import check_finite, check_floating
from vistok_kernels.vq import blocked

__all__ = ["code_sums", "nearest_code"]

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
    _check_one_device(latents, "latents", codebook, "the codebook")
    indices: Tensor = _nearest_code(latents.detach(), codebook.detach(), metric)
    return indices


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
    _check_one_device(latents, "latents", indices, "indices")
    counts, sums = _code_sums(latents.detach(), indices, codebook_size)
    return counts, sums


def _search_blocked(latents: Tensor, codebook: Tensor, metric: str) -> Tensor:
    check_finite(codebook, "codebook values", "reinitialise it, and look for the update that broke it")
    check_finite(
        latents,
        "latents",
        "look for the overflow in the encoder: a lower learning rate or float32 may cure it",
    )
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
    if indices.numel():
        lowest, highest = torch.aminmax(indices)
        if int(lowest) < 0 or int(highest) >= codebook_size:
            raise ValueError(
                f"indices lie in [{int(lowest)}, {int(highest)}], they must lie in [0, {codebook_size}); "
                "pass the codebook_size that they were made with"
            )
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


def _check_one_device(first: Tensor, first_name: str, second: Tensor, second_name: str) -> None:
    if first.device != second.device:
        raise ValueError(
            f"{first_name} are on {first.device} and {second_name} on {second.device}; move one with .to()"
        )
