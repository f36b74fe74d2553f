"""The head that gives one vector an image, in the space of a text tower."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from vistok.backbones.attention import Attention
from vistok.backbones.base import FeatureHead
from vistok.backbones.transformer import init_linear


class ContrastiveHead(FeatureHead):
    """Pools all quantized vectors of an image into one and projects it into the space that texts are embedded in.

    The vector is not scaled to length 1 and there is no temperature here: both belong to the contrastive loss.

    Source: the mean with a norm and a linear layer: Ma et al., UniTok (2025), arXiv:2502.20321; attention with one
    learned query: Zhai et al., Scaling Vision Transformers (2022), arXiv:2106.04560, section 3.2, as SigLIP has it.

    Args:
        dim: Channels of the quantized vectors.
        dim_out: Channels of the text tower.
        pool: ``"mean"`` of all positions, or ``"attention"`` of a learned query over them.
        num_heads: Of that attention.

    Shapes:
        quantized (B, h, w, dim), (B, N, dim) or (B, dim) -> (B, 1, 1, dim_out).

    Raises:
        ValueError: another pool, or channels that the heads do not divide.
    """

    topology: Literal["2d", "1d", "any"] = "any"
    shared_with_text = True

    def __init__(
        self, dim: int, dim_out: int, pool: Literal["mean", "attention"] = "mean", num_heads: int = 8
    ) -> None:
        super().__init__()
        if pool not in ("mean", "attention"):
            raise ValueError(f'pool is "mean" or "attention", not {pool!r}')
        self.dim, self.dim_out = dim, dim_out
        self.attention = Attention(dim, num_heads) if pool == "attention" else None
        if self.attention is not None:
            self.query = nn.Parameter(torch.empty(1, 1, dim))
            nn.init.trunc_normal_(self.query, std=0.02)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.project = nn.Linear(dim, dim_out)
        init_linear(self.project)

    def forward(self, quantized: Tensor) -> Tensor:
        """Pools and projects."""
        tokens = quantized.reshape(len(quantized), -1, quantized.shape[-1])
        if self.attention is None:
            pooled = tokens.mean(dim=1, keepdim=True)
        else:
            pooled = self.attention(self.query.expand(len(tokens), -1, -1), tokens)
        return self.project(self.norm(pooled)).unsqueeze(1)  # type: ignore[no-any-return]
