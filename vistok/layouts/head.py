"""A language model's output over the codes of every group of a position."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vistok.errors import LayoutError
from vistok.layouts.embedding import TokenEmbedder, orthonormal
from vistok.layouts.transformer import INIT_STD, AlongGroups


class TokenHead(nn.Module):
    """A language model's output to logits over the codes of every group: what it points at in the space of the codes.

    With layers, the groups of a position are predicted one after the other, by ``AlongGroups``.

    Args:
        embedder: Gives vectors, and the embeddings that the layers read.
        num_layers: Of the transformer over groups; 0 predicts each group from the output alone.
        num_heads: Its attention heads; they divide the width.

    Shapes:
        hidden (B, N, C), indices (B, N, S) -> logits (B, N, S, K): entry s given groups before s.

    Raises:
        LayoutError: heads that do not divide the width.
    """

    def __init__(self, embedder: TokenEmbedder, num_layers: int = 0, num_heads: int = 4) -> None:
        super().__init__()
        groups, _, dim = embedder.vectors.shape
        width = embedder.maps.shape[-1]
        if num_layers < 0 or (num_layers and (num_heads < 1 or width % num_heads)):
            raise LayoutError(
                f"a head of {num_layers} layers has width {width} for {num_heads} attention heads: they must divide it"
            )
        self.embedder = embedder
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.stack([orthonormal(width, dim, seed) for seed in range(groups)]))
        spread = embedder.vectors.detach().square().mean().sqrt().clamp_min(1e-8)
        # logits of about half at the start: nearly uniform, and the direction of every code already tells
        self.scale = nn.Parameter(0.5 / spread / dim**0.5)
        self.places = nn.Parameter(torch.randn(groups, width) * INIT_STD) if num_layers == 0 else None
        self.along = AlongGroups(groups, width, num_layers, num_heads) if num_layers else None

    def forward(self, hidden: Tensor, indices: Tensor | None = None) -> Tensor:
        """Logits of all groups.

        Raises:
            LayoutError: layers and no indices to read, or hidden vectors of another width.
        """
        width = self.queries.shape[1]
        if hidden.ndim != 3 or hidden.shape[2] != width:
            raise LayoutError(f"hidden is (B, N, {width}), it is {tuple(hidden.shape)}")
        if self.places is not None:
            return self._logits(hidden.unsqueeze(-2) + self.places)
        if indices is None:
            raise LayoutError("a head with layers reads the groups before: give indices, or call sample")
        if indices.shape[:2] != hidden.shape[:2]:
            raise LayoutError(
                f"hidden is {tuple(hidden.shape)} and indices {tuple(indices.shape)}: they must be of the same positions"
            )
        assert self.along is not None
        return self._logits(self.along(hidden, self.embedder.by_group(indices).unbind(2)))

    @torch.no_grad()
    def sample(
        self, hidden: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws the indices of one position, group after group: (B, C) -> (B, S); the temperature is above 0."""
        if not temperature > 0:
            raise LayoutError(f"temperature is {temperature}, it must be above 0")
        groups = len(self.queries)
        drawn = torch.zeros(len(hidden), 1, groups, dtype=torch.int64, device=hidden.device)
        for group in range(groups):
            logits = self(hidden.unsqueeze(1), drawn)[:, 0, group] / temperature
            drawn[:, 0, group] = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
        return drawn[:, 0]

    def _logits(self, x: Tensor) -> Tensor:
        queries = torch.einsum("...sc,scd->...sd", self.norm(x), self.queries)
        logits: Tensor = self.scale * torch.einsum("...sd,skd->...sk", queries, self.embedder.vectors)
        return logits
