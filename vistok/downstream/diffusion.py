"""``diffusion``: a small diffusion transformer on continuous latents, trained by rectified flow."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vistok.backbones.rectified_flow import Velocity
from vistok.downstream.base import DEPTH, DROPOUT, NUM_HEADS, WIDTH, Batch, Drawn
from vistok.downstream.continuous import ContinuousBackbone
from vistok.downstream.flow import LatentScale, independent_velocity, random_flow_errors
from vistok.downstream.tokens import Tokens, positions
from vistok.tokenizer import Tokenizer


class Diffusion(ContinuousBackbone):
    """Predicts the velocity from noise to latents; every position sees every other, at a time that all blocks know.

    Continuous latents have no bits per image: a density has no unit that two tokenizers share. Its cost is the flow
    loss, which a model that takes all values for independent and normal brings to about 1.57, and the mean to 2.

    Source: Peebles and Xie, DiT (2023), arXiv:2212.09748; rectified flow: Liu et al. (2022), arXiv:2209.03003.
    Deviation: no classes; learned positions; uniform times.

    Args:
        scale: Of the training latents.
        dim: D.
        grid: How the positions lie: (h, w), or (N,).
        width: Channels, a multiple of ``num_heads``.
        depth: Blocks.
        num_heads: Attention heads.
        dropout: Of each branch, in [0, 1).

    Shapes:
        latents (B, N, D), scaled.
    """

    name = "diffusion"

    def __init__(
        self,
        scale: LatentScale,
        dim: int,
        grid: tuple[int, ...],
        width: int = WIDTH,
        depth: int = DEPTH,
        num_heads: int = NUM_HEADS,
        dropout: float = DROPOUT,
    ) -> None:
        super().__init__(scale, dim, grid, width, depth, num_heads, dropout, conditioned=True)

    @classmethod
    def of(cls, tokenizer: Tokenizer, train: Tokens) -> Diffusion:
        """A model of a continuous tokenizer's latents."""
        return cls(LatentScale(train.values), train.values.shape[-1], positions(train.streams[0]))

    def inputs(self, tokens: Tokens) -> tuple[Tensor, ...]:
        """Scaled latents."""
        return (self.scale(tokens.values),)

    def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
        """The velocity: (B, N, D), (B,) -> (B, N, D)."""
        x = self.trunk(self.read(noisy) + self.positions(), condition=self.time(time))
        return independent_velocity(noisy, time) + self.velocity(x)  # type: ignore[no-any-return]

    def loss(self, batch: Batch) -> Tensor:
        """Mean squared error of the velocity."""
        return random_flow_errors(self, batch[0]).mean()

    def velocity_given(self, given: Batch) -> Velocity:
        """Itself: nothing is given."""
        return self

    def draw(self, count: int, generator: torch.Generator, on_share: Callable[[float], None]) -> Drawn:
        """Draws latents in 50 steps."""
        return Drawn((self.latents((), self.noise(count, generator), on_share),))
