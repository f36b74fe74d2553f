"""The positions of a token grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vistok.layouts.transformer import INIT_STD


class Positions(nn.Module):
    """Learned vectors of the positions of a grid: rows and columns of (h, w), which are added, or one each of (N,).

    Shapes:
        -> (N, width), N = h * w in raster order.
    """

    def __init__(self, grid: tuple[int, ...], width: int) -> None:
        super().__init__()
        height, *rest = grid
        self.rows = nn.Parameter(torch.zeros(height, 1, width))
        self.columns = nn.Parameter(torch.zeros(1, rest[0], width)) if rest else None
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=INIT_STD)

    def forward(self) -> Tensor:
        """The vectors."""
        return (self.rows if self.columns is None else self.rows + self.columns).flatten(0, 1)
