"""The tokens of one stream as slots of a sequence: in which order, in which groups, and where in the image they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vistok.errors import LayoutError
from vistok.layouts.checks import check_values
from vistok.layouts.template import StreamRule
from vistok.spec import StreamSpec

Grid = tuple[int, ...]
Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Slots:
    """Where the slots of a stream lie, each (M,).

    Args:
        group: Which of a position's values; -1 where all are stacked, or none is written.
        row: In the token grid.
        column: Likewise.
        scale: Of a multi-scale grid, coarsest 0.
        run: Which pass over all positions, where one group is written after the other.
    """

    group: Positions
    row: Positions
    column: Positions
    scale: Positions
    run: Positions


class StreamOrder:
    """Puts the values of a stream into the order of a sequence, and back.

    Args:
        rule: Of the template.
        stream: Of the tokenizer, one that the rule fits (``fit.matched``).
        system: Named in messages.
    """

    def __init__(self, rule: StreamRule, stream: StreamSpec, system: str) -> None:
        self.rule, self.stream, self.system = rule, stream, system
        self.reversed = rule.reversed or stream.order == "reversed"
        self.widths = self._split_widths()
        self.num_groups = stream.num_groups * max(1, len(self.widths))

    @property
    def stacked(self) -> bool:
        """Whether ids have a further axis of the groups."""
        return self.rule.groups == "stacked" and self.rule.placeholder is None

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many values each group has."""
        size = self.stream.codebook_size or 0
        parts = tuple(1 << width for width in self.widths) or (size,)
        return parts * self.stream.num_groups

    def grids(self, grid: Grid) -> tuple[tuple[int, int], ...]:
        """The (h, w) of each scale as it is written, coarsest first; (1, N) in one dimension.

        Raises:
            LayoutError: a grid of another kind, or one that squares of positions do not tile.
        """
        if self.stream.topology in ("1d", "ragged"):
            if len(grid) != 1:
                raise LayoutError(f"the grid of stream {self.stream.name!r} is (N,), it is given as {grid}")
            if 0 < self.stream.max_tokens < grid[0]:
                raise LayoutError(
                    f"stream {self.stream.name!r} has at most {self.stream.max_tokens} tokens, the grid says {grid[0]}"
                )
            return ((1, grid[0]),)
        if len(grid) != 2:
            raise LayoutError(f"the grid of stream {self.stream.name!r} is (h, w), it is given as {grid}")
        height, width = grid
        if self.stream.topology == "multiscale":
            return self.stream.scale_grids((height, width))
        patch = self.rule.patch
        if height % patch or width % patch:
            raise LayoutError(
                f"{self.system} packs squares of {patch} x {patch} latents, a grid of {height} x {width} is not a multiple"
            )
        return ((height // patch, width // patch),)

    def num_tokens(self, grid: Grid) -> int:
        """N of what the tokenizer gives on a grid."""
        return sum(map(prod, self.grids(grid))) * self.rule.patch**2

    def check_sizes(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Refuses (H, W) in pixels that the positions of a grid do not tile."""
        side = self.stream.factor * self.rule.patch
        wrong = next((size for size in sizes if side and (size[0] % side or size[1] % side)), None)
        if wrong is not None:
            raise LayoutError(
                f"sizes holds {wrong}, of which {self.system} takes multiples of {side} with stream {self.stream.name!r}"
            )

    def grid_of(self, size: tuple[int, int]) -> Grid:
        """The token grid of images of (H, W) pixels; the longest where the length varies."""
        if self.stream.topology in ("1d", "ragged"):
            return (self.stream.max_tokens,)
        return self.stream.grid(*size)

    def grids_of(self, number: int) -> list[Grid]:
        """The token grids that are written with so many positions: of one scale, the squarest first; of several, squares only."""
        if self.stream.topology in ("1d", "ragged"):
            return [(number,)]
        if self.stream.topology == "multiscale":
            squares = ((side, side) for side in range(1, number + 1))
            return [grid for grid in squares if self.num_tokens(grid) == number]
        patch = self.rule.patch
        heights = [h for h in range(1, number + 1) if number % h == 0]
        heights.sort(key=lambda h: abs(h - number // h))
        return [(h * patch, number // h * patch) for h in heights]

    def slots(self, grid: Grid) -> Slots:
        """Where each slot of a grid lies."""
        pieces = [
            (np.repeat(np.arange(h), w), np.tile(np.arange(w), h), np.full(h * w, scale))
            for scale, (h, w) in enumerate(self.grids(grid))
        ]
        row, column, scale = (np.concatenate(part).astype(np.int64) for part in zip(*pieces, strict=True))
        if self.reversed:
            row, column, scale = row[::-1], column[::-1], scale[::-1]
        number, run = len(row), np.zeros_like(row)
        if self.num_groups == 1 or self.rule.placeholder is not None or self.stacked:
            group = np.full(number, 0 if self.num_groups == 1 else -1, dtype=np.int64)
        elif self.rule.groups == "grouped":
            group = run = np.repeat(np.arange(self.num_groups), number)
            row, column, scale = (np.tile(part, self.num_groups) for part in (row, column, scale))
        else:
            group = np.tile(np.arange(self.num_groups), number)
            row, column, scale, run = (np.repeat(part, self.num_groups) for part in (row, column, scale, run))
        return Slots(group, row, column, scale, run)

    def check(self, values: Tensor, grid: Grid) -> None:
        """Refuses values that are not those of a grid.

        Raises:
            LayoutError: another shape or type, or an index outside the codebook; the first wrong one is named.
        """
        last = self.stream.dim if self.rule.latents else self.stream.num_groups
        what = f"stream {self.stream.name!r} on a grid of {' x '.join(map(str, grid))}"
        check_values(values, (None, self.num_tokens(grid), last), self.rule.latents, what)
        if self.rule.latents:
            return
        size = self.stream.codebook_size or 0
        wrong = ((values < 0) | (values >= size)).nonzero()
        if len(wrong):
            image, position, group = wrong[0].tolist()
            raise LayoutError(
                f"image {image} holds index {int(values[image, position, group])} at position {position} of stream "
                f"{self.stream.name!r}, outside [0, {size})"
            )

    def arrange(self, values: Tensor, grid: Grid) -> Tensor:
        """Indices (B, N, S) to (B, M), or (B, N, S') where they are stacked or go beside; latents (B, N, D) to (B, M, p p D)."""
        if self.rule.latents:
            return self._reverse(self._patched(values, grid))
        parts = self._reverse(self._split(values.long()))
        if self.rule.placeholder is not None or self.stacked:
            return parts
        return (parts.transpose(1, 2) if self.rule.groups == "grouped" else parts).flatten(1)

    def restore(self, arranged: Tensor, grid: Grid) -> Tensor:
        """The inverse of ``arrange``."""
        if self.rule.latents:
            return self._unpatched(self._reverse(arranged), grid)
        if arranged.ndim == 2:
            batch, number = len(arranged), arranged.shape[1] // self.num_groups
            if self.rule.groups == "grouped":
                arranged = arranged.view(batch, self.num_groups, number).transpose(1, 2)
            else:
                arranged = arranged.view(batch, number, self.num_groups)
        return self._joined(self._reverse(arranged))

    def _split_widths(self) -> tuple[int, ...]:
        rule, stream = self.rule, self.stream
        if not rule.split:
            return ()
        return (1,) * stream.bits if rule.split == "bits" else tuple(rule.split)

    def _reverse(self, values: Tensor) -> Tensor:
        return values.flip(1) if self.reversed else values

    def _split(self, indices: Tensor) -> Tensor:
        if not self.widths:
            return indices
        shifts = _shifts(self.widths, indices.device)
        masks = torch.tensor([(1 << width) - 1 for width in self.widths], device=indices.device)
        return ((indices.unsqueeze(-1) >> shifts) & masks).flatten(2)

    def _joined(self, parts: Tensor) -> Tensor:
        if not self.widths:
            return parts
        pieces = parts.reshape(*parts.shape[:2], self.stream.num_groups, len(self.widths))
        joined: Tensor = (pieces << _shifts(self.widths, parts.device)).sum(-1)
        return joined

    def _patched(self, latents: Tensor, grid: Grid) -> Tensor:
        patch = self.rule.patch
        if patch == 1:
            return latents
        ((height, width),) = self.grids(grid)
        squares = latents.reshape(len(latents), height, patch, width, patch, -1)
        return squares.permute(0, 1, 3, 2, 4, 5).reshape(len(latents), height * width, -1)

    def _unpatched(self, packed: Tensor, grid: Grid) -> Tensor:
        patch = self.rule.patch
        if patch == 1:
            return packed
        ((height, width),) = self.grids(grid)
        squares = packed.reshape(len(packed), height, width, patch, patch, -1)
        return squares.permute(0, 1, 3, 2, 4, 5).reshape(len(packed), height * width * patch**2, -1)


def _shifts(widths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([sum(widths[n + 1 :]) for n in range(len(widths))], device=device)
