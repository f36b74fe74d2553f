"""A batch of images as sequences, and what comes out of them again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from vistok.layouts.streams import Grid

IGNORED = -100


class StreamValues(Protocol):
    """What ``encode`` gives of one stream."""

    @property
    def values(self) -> Tensor:
        """Indices (B, N, S) or latents (B, N, D)."""
        ...

    @property
    def grid(self) -> Grid:
        """The token grid."""
        ...


@dataclass(frozen=True)
class Stream:
    """One stream of a batch: ``StreamTokens`` of ``vistok.tokenizer``, without needing it."""

    values: Tensor
    grid: Grid


@dataclass(frozen=True, eq=False)
class Packed:
    """A batch of images as sequences.

    Args:
        ids: (B, L) int64, or (B, L, S) where the groups of a position are stacked. Ids below 0 are of no vocabulary: a
            vector takes their place.
        loss_mask: (L,) what a model predicts: all from the first token of the image on.
        is_token: (L,) where tokens of the image stand.
        rows: (L,) row in the token grid; -1 where none of the image's tokens stands.
        columns: (L,) likewise.
        scales: (L,) likewise, 0 where there is one scale.
        values: What goes beside the ids, in the order of its placeholders, by the stream's name in the template: indices
            (B, M, S), or latents (B, M, p p D).
        placeholders: By the same names, where they stand: (L,) bool.
    """

    ids: Tensor
    loss_mask: Tensor
    is_token: Tensor
    rows: Tensor
    columns: Tensor
    scales: Tensor
    values: dict[str, Tensor] = field(default_factory=dict)
    placeholders: dict[str, Tensor] = field(default_factory=dict)

    @property
    def labels(self) -> Tensor:
        """The ids with -100 where nothing is predicted, and for placeholders, whose loss is another."""
        kept = self.loss_mask & ~sum(self.placeholders.values(), torch.zeros_like(self.loss_mask))
        shape = (1, -1) if self.ids.ndim == 2 else (1, -1, 1)
        return self.ids.masked_fill(~kept.view(shape), IGNORED)


@dataclass(frozen=True, eq=False)
class Unpacked:
    """What was packed.

    Args:
        streams: Values and grid by stream of the tokenizer.
        labels: (B,) class labels; None where the layout has none.
    """

    streams: dict[str, Stream]
    labels: Tensor | None = None

    @property
    def values(self) -> Tensor:
        """Indices (B, N, S) or latents (B, N, D) of the first stream."""
        return next(iter(self.streams.values())).values

    @property
    def grid(self) -> Grid:
        """Token grid of the first stream."""
        return next(iter(self.streams.values())).grid
