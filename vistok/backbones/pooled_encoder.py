"""Coarser token grids from one encoder: its features, averaged over squares."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vistok.backbones.base import Encoder, EncoderOutput


class PooledEncoder(Encoder):
    """Averages another encoder's features over squares of a side that is chosen for each call.

    In training each batch draws a side, so that one tokenizer serves all; in evaluation the first one is the default.
    Rows and columns that do not fill a square are left out: 27 x 27 features give 13 x 13 with a side of 2.

    Source: Han et al., Tar (2025), arXiv:2506.18898, section 3.1 (sides 1, 2 and 3).

    Args:
        trunk: Where features come from; on a grid.
        pools: Sides of the squares in grid points, the default first.

    Shapes:
        image (B, 3, H, W) -> latent (B, h // pool, w // pool, dim), (h, w) being the trunk's grid.

    Raises:
        ValueError: no side or one below 1, a trunk that gives no grid, or a grid smaller than the square.
    """

    def __init__(self, trunk: Encoder, pools: Sequence[int] = (1, 2, 3)) -> None:
        super().__init__()
        if not pools or min(pools) < 1:
            raise ValueError(f"pools must be sides of at least 1, they are {tuple(pools)}")
        if trunk.topology != "2d":
            raise ValueError(f"the trunk must give a grid, {type(trunk).__name__} gives a sequence")
        self.trunk, self.pools = trunk, tuple(int(side) for side in pools)
        self.dim = trunk.dim
        # several sides have no factor in common: the grid of the trunk is what an image must fill
        self.factor = trunk.factor * (self.pools[0] if len(self.pools) == 1 else 1)

    @property
    def multiple_of(self) -> int:
        """The trunk's, and the factor."""
        return math.lcm(self.trunk.multiple_of, self.factor)

    def forward(self, image: Tensor) -> Tensor:
        """Encodes at the default side."""
        return self._pooled(image, self.pools[0])

    def latents(self, image: Tensor, pool: int | None = None) -> EncoderOutput:
        """Encodes at a side; in training at a drawn one where none is said."""
        self.check_pool(pool)
        if pool is None:
            pool = self._drawn() if self.training else self.pools[0]
        return EncoderOutput(self(image) if pool == self.pools[0] else self._pooled(image, pool))

    def preferring(self, pool: int) -> PooledEncoder:
        """The same encoder, weights shared, with another default side.

        Raises:
            ValueError: a side that is not offered.
        """
        self.check_pool(pool)
        other = copy.copy(self)
        other.pools = (pool, *(side for side in self.pools if side != pool))
        other._arguments = {**self._arguments, "pools": list(other.pools)}
        return other

    def _drawn(self) -> int:
        # on the CPU, where it is the same on every process and needs no waiting for a device
        return self.pools[min(int(torch.rand(()) * len(self.pools)), len(self.pools) - 1)]

    def _pooled(self, image: Tensor, pool: int) -> Tensor:
        features: Tensor = self.trunk(image)
        if pool == 1:
            return features
        if min(features.shape[1:3]) < pool:
            height, width = features.shape[1:3]
            raise ValueError(f"features on {height} x {width} cannot be pooled by {pool}: take larger images")
        return F.avg_pool2d(features.permute(0, 3, 1, 2), pool).permute(0, 2, 3, 1).contiguous()
