"""The checks that every op makes of what it is given."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def check_finite(tensor: Tensor, name: str, remedy: str) -> None:
    """Refuses NaN and Inf; one pass without a temporary, and a synchronisation on devices other than the CPU.

    Raises:
        ValueError: a NaN or Inf in ``tensor``, which ``name`` calls by its name.
    """
    if tensor.numel() == 0:
        return
    lowest, highest = torch.aminmax(tensor.detach())
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise ValueError(f"{name} contain NaN or Inf; {remedy}")


def check_floating(tensor: Tensor, name: str) -> None:
    """Refuses integer, boolean and complex tensors.

    Raises:
        ValueError: a dtype that is not a real floating-point one.
    """
    if not tensor.is_floating_point():
        raise ValueError(
            f"{name} have dtype {tensor.dtype}, it must be a floating-point one; convert with .float()"
        )


def check_one_device(first: Tensor, first_name: str, second: Tensor, second_name: str) -> None:
    """Refuses tensors on different devices.

    Raises:
        ValueError: they are.
    """
    if first.device != second.device:
        raise ValueError(
            f"{first_name} are on {first.device} and {second_name} on {second.device}; move one with .to()"
        )


def computing_dtype(tensor: Tensor) -> torch.dtype:
    """float32, or float64 where the tensor already has it: half precisions are widened before any arithmetic."""
    return torch.promote_types(tensor.dtype, torch.float32)
