"""``diffusion``: a small diffusion transformer on continuous latents, trained by rectified flow."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vistok.downstream.base import DEPTH, DROPOUT, NUM_HEADS, WIDTH, Backbone, Batch, Drawn, nothing
from vistok.downstream.flow import (
    LatentScale,
    TimeEmbedding,
    drawn_flow_errors,
    flow_baselines,
    flow_errors,
    independent_velocity,
    integrate,
)
from vistok.downstream.tokens import Tokens, positions
from vistok.downstream.transformer import Positions, Transformer
from vistok.spec import TokenizerSpec
from vistok.tokenizer import Tokenizer


class Diffusion(Backbone):
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
    fits = "continuous tokenizers of one stream"
    unit = "flow loss"
    num_draws = 4

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
        super().__init__()
        self.scale = scale
        self.read = nn.Linear(dim, width)
        self.positions = Positions(grid, width)
        self.time = TimeEmbedding(width)
        self.trunk = Transformer(width, depth, num_heads, dropout, conditioned=True)
        self.velocity = nn.Linear(width, dim)
        nn.init.zeros_(self.velocity.weight)
        nn.init.zeros_(self.velocity.bias)

    @classmethod
    def takes(cls, spec: TokenizerSpec) -> bool:
        """One stream of latents."""
        return len(spec.streams) == 1 and spec.main.codebook_size is None

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
        time = torch.rand(len(batch[0]), device=self.device)
        return flow_errors(self, batch[0], time).mean()

    def costs(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The flow loss of each image."""
        return drawn_flow_errors(self, batch[0], generator)

    def baselines(self, train: Tokens, held_out: Tokens) -> dict[str, float]:
        """``independent`` and ``mean``; see ``flow_baselines``."""
        return flow_baselines(self.scale(held_out.values))

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0, on_share: Callable[[float], None] = nothing) -> Drawn:
        """Draws latents in 50 steps; in evaluation mode."""
        generator = torch.Generator().manual_seed(seed)
        was_training = self.training
        self.eval()
        shape = (count, len(self.positions()), self.read.in_features)
        noise = torch.randn(shape, generator=generator).to(self.device)
        latents = self.scale.inverse(integrate(self, noise, on_share))
        self.train(was_training)
        return Drawn((latents.cpu(),))
