"""What the combinators of quantizers share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from vistok.quantizers.base import Q, Quantizer


def another(quantizer: Q) -> Q:
    """A new quantizer made from the same arguments, sharing nothing with the given one."""
    return type(quantizer)(**{name: _fresh(value) for name, value in quantizer._arguments.items()})


def check_discrete(quantizer: Quantizer, role: str) -> int:
    """The codebook size of a part of a combinator.

    Raises:
        ValueError: a continuous part.
    """
    if quantizer.codebook_size is None:
        raise ValueError(f"a {role} must give indices, {type(quantizer).__name__} does not")
    return quantizer.codebook_size


def with_groups(quantizer: Quantizer, indices: Tensor) -> Tensor:
    """A part's indices with their last dimension for groups: (B, ...) or (B, ..., S) -> (B, ..., S)."""
    return indices.unsqueeze(-1) if quantizer.num_groups == 1 else indices


def without_groups(quantizer: Quantizer, indices: Tensor) -> Tensor:
    """A part's indices (B, ..., S) as the part itself gives them: without a dimension of 1."""
    return indices.squeeze(-1) if quantizer.num_groups == 1 else indices


def mean_losses(parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each loss over the parts that return it, so that a weight means the same at any number of them."""
    gathered: dict[str, list[Tensor]] = {}
    for losses in parts:
        for name, value in losses.items():
            gathered.setdefault(name, []).append(value)
    return {name: torch.stack(values).mean() for name, values in gathered.items()}


def _fresh(value: Any) -> Any:
    if isinstance(value, Quantizer):
        return another(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_fresh(item) for item in value)
    return value
