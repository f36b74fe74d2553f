"""What tokens must look like before they become vectors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vistok.errors import TokenizerError
from vistok.quantizers import Quantizer


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns a part's ValueError into a TokenizerError that says what could not be done."""
    try:
        yield
    except ValueError as error:
        raise TokenizerError(f"{what}: {error}") from error


def check_groups(quantizer: Quantizer, indices: Tensor) -> None:
    """Refuses indices that are not (B, N, S).

    Raises:
        ValueError: naming both shapes.
    """
    if indices.ndim != 3 or indices.shape[-1] != quantizer.num_groups:
        raise ValueError(f"indices must be (B, N, {quantizer.num_groups}), they are {tuple(indices.shape)}")


def checked_latents(latents: Tensor, dim: int) -> Tensor:
    """Latents (B, N, dim) in float32.

    Raises:
        TokenizerError: another shape or type, or values that are not finite.
    """
    if latents.ndim != 3 or latents.shape[-1] != dim or not latents.is_floating_point():
        raise TokenizerError(
            f"latents must be float (B, N, {dim}), they are {latents.dtype} {tuple(latents.shape)}"
        )
    if not torch.compiler.is_compiling() and not bool(latents.detach().isfinite().all()):
        raise TokenizerError("latents hold NaN or Inf: the model that made them diverged")
    return latents.float()
