"""Vectors of tokens (B, N, S), by position or as they lie, for quantizers of one scale and of several."""

from __future__ import annotations

from math import prod

from torch import Tensor

from vistok.quantizers import MultiScale, Quantizer


def by_position(quantizer: Quantizer, indices: Tensor) -> Tensor:
    """The vector of each position by itself: (B, N, S) -> (B, N, D)."""
    indices = _as_given(quantizer, indices)
    return quantizer.codes(indices) if isinstance(quantizer, MultiScale) else quantizer.decode(indices)


def on_grid(quantizer: Quantizer, indices: Tensor, grid: tuple[int, ...]) -> Tensor:
    """What the decoder reads: (B, N, S) -> (B, *grid, D), scales summed where there are several.

    Raises:
        ValueError: another number of tokens than the grid has.
    """
    if isinstance(quantizer, MultiScale):
        return quantizer.decode(_as_given(quantizer, indices), (grid[0], grid[1]))
    return fill(by_position(quantizer, indices), grid)


def fill(vectors: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Vectors in order, as they lie: (B, N, D) -> (B, h, w, D), or (B, N, D) of a grid (N,).

    Raises:
        ValueError: another number of vectors than the grid has.
    """
    if vectors.shape[1] != prod(grid):
        raise ValueError(
            f"{vectors.shape[1]} tokens do not fill a grid of {' x '.join(map(str, grid))}: give the grid that encode gave"
        )
    return vectors.reshape(vectors.shape[0], *grid, vectors.shape[-1])


def up_to_scale(quantizer: Quantizer, indices: Tensor, grid: tuple[int, ...] | None) -> Tensor:
    """The sum of scales up to each position's, shrunk to it: (B, N, S) -> (B, N, D).

    Raises:
        ValueError: a quantizer of one scale.
    """
    if not isinstance(quantizer, MultiScale):
        raise ValueError("there is a single scale: cumulative features exist for multi-scale tokenizers")
    return quantizer.cumulative(_as_given(quantizer, indices), None if grid is None else (grid[0], grid[1]))


def square_grid(quantizer: Quantizer, num_tokens: int) -> tuple[int, ...]:
    """The grid of so many tokens where none is said.

    Raises:
        ValueError: they are not a square.
    """
    if isinstance(quantizer, MultiScale):
        return quantizer.schedule.square(num_tokens)
    side = round(num_tokens**0.5)
    if side * side != num_tokens:
        raise ValueError(f"{num_tokens} tokens are not a square: say grid=(h, w)")
    return side, side


def with_groups(quantizer: Quantizer, indices: Tensor) -> Tensor:
    """A quantizer's indices as tokens: (B, h, w), (B, h, w, S), (B, N) or (B, N, S) -> (B, N, S)."""
    return indices.reshape(indices.shape[0], -1, quantizer.num_groups)


def _as_given(quantizer: Quantizer, indices: Tensor) -> Tensor:
    return indices.squeeze(-1) if quantizer.num_groups == 1 else indices
