"""Stops a training run at the first number that is not finite, before it reaches the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vistok.errors import VistokError


def refuse_non_finite(values: Mapping[str, Tensor], keys: Sequence[str], step: int) -> None:
    """Checks scalars of all processes at the cost of one synchronisation.

    Args:
        values: Scalars by name: losses, gradient norms.
        keys: Images that they come from.
        step: Optimizer step, counted from 0.

    Raises:
        VistokError: on every process, if any value of any process is NaN or infinite.
    """
    if not values:
        return
    stacked = torch.stack([value.detach().float().reshape(()) for value in values.values()])
    finite = stacked.isfinite().all().int()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(finite, op=dist.ReduceOp.MIN)
    if bool(finite):
        return
    bad = [
        f"{name}={float(value)}"
        for name, value in zip(values, stacked, strict=True)
        if not bool(value.isfinite())
    ]
    what = ", ".join(bad) if bad else "a value of another process"
    raise VistokError(
        f"{what} at step {step}, images {describe_keys(keys)}: training stopped before the weights were touched; "
        "lower the learning rate, raise warmup_steps or look at these images"
    )


def refuse_bad_images(images: Tensor, keys: Sequence[str], step: int) -> None:
    """Checks a batch (B, 3, H, W) on the CPU before it is moved.

    Raises:
        VistokError: naming the images that hold NaN or infinity.
    """
    finite = images.isfinite().flatten(1).all(dim=1)
    if not bool(finite.all()):
        bad = [key for key, good in zip(keys, finite.tolist(), strict=True) if not good]
        raise VistokError(
            f"images {describe_keys(bad)} of step {step} hold values that are not finite: remove or mend them"
        )


def describe_keys(keys: Sequence[str], limit: int = 4) -> str:
    """The first few keys, and how many more there are."""
    shown = ", ".join(keys[:limit])
    return shown if len(keys) <= limit else f"{shown} and {len(keys) - limit} more"


def batch_keys(batch: Mapping[str, Any]) -> list[str]:
    """Keys of a batch's images; numbered where the dataset gives none."""
    keys = batch.get("key")
    return [str(key) for key in keys] if keys is not None else [f"#{i}" for i in range(len(batch["image"]))]
