"""What the combinators of quantizers share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vistok.quantizers.base import Q, Quantizer, QuantizerOutput
from vistok.quantizers.vq import VQ


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


@torch.no_grad()
def codebooks_of(parts: Iterable[nn.Module]) -> Tensor | None:
    """The codebooks of parts whose indices one op can find together, (S, K, D); None where a part chooses otherwise."""
    tables = []
    for part in parts:
        if not isinstance(part, VQ) or not part.replaceable or part.metric != "euclid":
            return None
        tables.append(part.table())
    return torch.stack(tables)


def quantize(
    part: Quantizer, latent: Tensor, found: Sequence[Tensor] | None, number: int
) -> tuple[QuantizerOutput, Tensor]:
    """What a part makes of latents, and its indices (B, ..., S); its indices may have been found already."""
    output: QuantizerOutput
    output = part(latent) if found is None or not isinstance(part, VQ) else part.assign(latent, found[number])
    assert output.indices is not None
    return output, with_groups(part, output.indices)


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
