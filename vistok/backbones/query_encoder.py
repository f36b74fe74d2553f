"""Learned queries that gather an image into a short sequence."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn

from vistok.backbones.base import Encoder, Order
from vistok.backbones.sequence import SequenceTransformer, learned_vectors


class QueryEncoder(Encoder):
    """Appends N learned queries to the features of another encoder, lets them attend, and keeps them alone.

    The features see each other only, or the queries too where ``order`` is ``raster``. With ``causal``, a query sees all
    features and the queries up to itself, so that the sequence can be cut anywhere and its start still means the same;
    with ``reversed``, those from itself on, so that generation begins at the last.

    The encoder below must know where things are: TiTok's is ``ViTEncoder(depth=0, positions="learned")``, a layer of
    patches; SEED's a pretrained network.

    Source: Yu et al., TiTok (2024), arXiv:2406.07550, section 3.2 (``raster``); Ge et al., SEED (2023), arXiv:2307.08041,
    section 3.1 (``causal``); Wang et al., Selftok (2025), arXiv:2505.07538 (``reversed``). Deviations: no class token;
    SEED's queries read the features by cross-attention, which do not change; here both go through the same blocks.

    Args:
        trunk: Where features come from; on a grid.
        num_tokens: N.
        width: Channels of the transformer and of the latents.
        depth: Transformer blocks.
        num_heads: Attention heads.
        order: Which queries a query sees.

    Shapes:
        image (B, 3, H, W) -> latent (B, N, width), H and W multiples of the trunk's factor.

    Raises:
        ValueError: no tokens, an unknown order, a trunk that gives no grid, or a width that the heads do not divide.
    """

    topology = "1d"

    def __init__(
        self,
        trunk: Encoder,
        num_tokens: int,
        width: int,
        depth: int,
        num_heads: int,
        order: Order = "raster",
    ) -> None:
        super().__init__()
        if num_tokens < 1:
            raise ValueError(f"num_tokens is {num_tokens}, it must be at least 1")
        if order not in get_args(Order):
            raise ValueError(f"order is one of {', '.join(get_args(Order))}, not {order!r}")
        if trunk.topology != "2d":
            raise ValueError(f"the trunk must give a grid, {type(trunk).__name__} gives a sequence")
        self.trunk, self.num_tokens, self.order = trunk, num_tokens, order
        self.dim, self.factor = width, trunk.factor
        self.project = nn.Linear(trunk.dim, width) if trunk.dim != width else nn.Identity()
        self.queries = learned_vectors(num_tokens, width)
        self.transformer = SequenceTransformer(width, depth, num_heads)

    @property
    def multiple_of(self) -> int:
        """The trunk's."""
        return self.trunk.multiple_of

    def forward(self, image: Tensor) -> Tensor:
        """Encodes."""
        features = self.project(self.trunk(image).flatten(1, 2))
        queries = self.queries.to(features.dtype).expand(len(features), -1, -1)
        x = torch.cat([features, queries], dim=1)
        x = self.transformer(x, self._mask(features.shape[1], x.device))
        return x[:, features.shape[1] :]  # type: ignore[no-any-return]

    def _mask(self, num_features: int, device: torch.device) -> Tensor | None:
        if self.order == "raster":
            return None
        total = num_features + self.num_tokens
        mask = torch.zeros(total, total, dtype=torch.bool, device=device)
        mask[:, :num_features] = True
        among = torch.ones(self.num_tokens, self.num_tokens, dtype=torch.bool, device=device)
        mask[num_features:, num_features:] = among.tril() if self.order == "causal" else among.triu()
        return mask
