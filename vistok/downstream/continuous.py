"""What the models of continuous latents share: latents in, velocities and the flow loss out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vistok.backbones.rectified_flow import Velocity, integrate
from vistok.downstream.base import Backbone, Batch
from vistok.downstream.flow import LatentScale, TimeEmbedding, drawn_flow_errors, flow_baselines
from vistok.downstream.positions import Positions
from vistok.downstream.tokens import Tokens
from vistok.layouts.transformer import Transformer
from vistok.spec import TokenizerSpec

STEPS = 50


class ContinuousBackbone(Backbone):
    """A model of the scaled latents (B, N, D) of continuous tokens, the last tensor of its inputs.

    Args:
        scale: Of the training latents.
        dim: D.
        grid: How the positions lie: (h, w), or (N,).
        width: Channels, a multiple of ``num_heads``.
        depth: Blocks.
        num_heads: Attention heads.
        dropout: Of each branch, in [0, 1).
        conditioned: Whether all blocks are told the time.
    """

    fits = "continuous tokenizers of one stream"
    unit = "flow loss"
    num_draws = 4

    def __init__(
        self,
        scale: LatentScale,
        dim: int,
        grid: tuple[int, ...],
        width: int,
        depth: int,
        num_heads: int,
        dropout: float,
        conditioned: bool = False,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.read = nn.Linear(dim, width)
        self.positions = Positions(grid, width)
        self.time = TimeEmbedding(width)
        self.trunk = Transformer(width, depth, num_heads, dropout, conditioned=conditioned)
        self.velocity = nn.Linear(width, dim)
        nn.init.zeros_(self.velocity.weight)
        nn.init.zeros_(self.velocity.bias)

    @classmethod
    def takes(cls, spec: TokenizerSpec) -> bool:
        """One stream of latents."""
        return len(spec.streams) == 1 and spec.main.codebook_size is None

    @abstractmethod
    def velocity_given(self, given: Batch) -> Velocity:
        """The velocity of latents (B, N, D) at times (B,), given the inputs beside them."""

    def costs(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The flow loss of each image, given what is beside its latents."""
        *given, latents = batch
        return drawn_flow_errors(self.velocity_given(given), latents, generator)

    def baselines(self, train: Tokens, held_out: Tokens) -> dict[str, float]:
        """``independent`` and ``mean``; see ``flow_baselines``."""
        return flow_baselines(self.scale(held_out.values))

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Where drawing starts: (count, N, D)."""
        shape = (count, len(self.positions()), self.read.in_features)
        return torch.randn(shape, generator=generator).to(self.device)

    def latents(self, given: Batch, noise: Tensor, on_share: Callable[[float], None]) -> Tensor:
        """The tokenizer's latents, from noise in 50 steps."""
        return self.scale.inverse(integrate(self.velocity_given(given), noise, STEPS, on_share))
