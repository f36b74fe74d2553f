"""Shrinking by area and growing bicubically as matrices along rows and along columns: both are linear and separable."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

Grid = tuple[int, int]


def as_grids(flat: Sequence[int]) -> list[Grid]:
    """The grids [h_1, w_1, h_2, w_2, ...] of an op's schema, pair by pair."""
    return list(zip(flat[::2], flat[1::2], strict=True))


@lru_cache(maxsize=256)
def matrices(size: int, finest: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """What shrinks a side of ``finest`` cells to ``size`` cells, and what grows it back; small, so they are kept.

    Shapes:
        (size, finest), whose rows are means over windows, and (finest, size), whose rows are bicubic weights.
    """
    # kept for later calls, which may record gradients where this one does not
    with torch.inference_mode(False):
        if size == finest:
            same = torch.eye(size, dtype=dtype, device=device)
            return same, same
        # float64 first: the weights themselves are then rounded once
        shrunk = F.adaptive_avg_pool1d(torch.eye(finest, dtype=torch.float64), size).mT
        each_cell = torch.eye(size, dtype=torch.float64)[None, :, :, None]
        grown = F.interpolate(each_cell, size=(finest, 1), mode="bicubic")[0, :, :, 0].mT
        return tuple(part.to(device, dtype).contiguous() for part in (shrunk, grown))  # type: ignore[return-value]


def shrink(image: Tensor, grid: Grid) -> Tensor:
    """Means over areas, as ``F.interpolate`` takes them with mode="area": (B, h, w, D) -> (B, *grid, D)."""
    if image.shape[1:3] == grid:
        return image
    rows, columns = (
        matrices(size, finest, image.dtype, image.device)[0]
        for size, finest in zip(grid, image.shape[1:3], strict=True)
    )
    return _along_columns(_along_rows(image, rows), columns)


def grow(image: Tensor, finest: Grid) -> Tensor:
    """Bicubic values, as ``F.interpolate`` takes them with mode="bicubic": (B, h_k, w_k, D) -> (B, *finest, D)."""
    if image.shape[1:3] == finest:
        return image
    rows, columns = (
        matrices(size, whole, image.dtype, image.device)[1]
        for size, whole in zip(image.shape[1:3], finest, strict=True)
    )
    return _along_rows(_along_columns(image, columns), rows)


def grow_backward(gradient: Tensor, grid: Grid) -> Tensor:
    """The gradient of what was grown: (B, h, w, D) -> (B, *grid, D)."""
    if gradient.shape[1:3] == grid:
        return gradient
    rows, columns = (
        matrices(size, finest, gradient.dtype, gradient.device)[1].mT
        for size, finest in zip(grid, gradient.shape[1:3], strict=True)
    )
    return _along_columns(_along_rows(gradient, rows), columns)


def _along_rows(image: Tensor, matrix: Tensor) -> Tensor:
    """(B, h, w, D) by (h', h) -> (B, h', w, D)."""
    batch, height, width, dim = image.shape
    # bmm with an expanded matrix: matmul would transpose the image, einsum copy it
    flat = torch.bmm(matrix.expand(batch, *matrix.shape), image.reshape(batch, height, width * dim))
    return flat.view(batch, len(matrix), width, dim)


def _along_columns(image: Tensor, matrix: Tensor) -> Tensor:
    """(B, h, w, D) by (w', w) -> (B, h, w', D)."""
    batch, height, width, dim = image.shape
    flat = torch.bmm(matrix.expand(batch * height, *matrix.shape), image.reshape(batch * height, width, dim))
    return flat.view(batch, height, len(matrix), dim)
