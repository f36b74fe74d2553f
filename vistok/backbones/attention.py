"""Attention of some vectors over others, for parts that are no stack of transformer blocks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vistok.backbones.transformer import init_linear


class Attention(nn.Module):
    """Multi-head attention of queries over a context, from one number of channels to another.

    Source: Vaswani et al., Attention Is All You Need (2017), arXiv:1706.03762, section 3.2.

    Args:
        dim: Channels of queries and context.
        num_heads: Attention heads.
        dim_out: Channels that go out; those that come in where None. Attention itself has the larger of the two.

    Shapes:
        queries (B, N, dim), context (B, M, dim) -> (B, N, dim_out).

    Raises:
        ValueError: channels that the heads do not divide.
    """

    def __init__(self, dim: int, num_heads: int, dim_out: int | None = None) -> None:
        super().__init__()
        dim_out = dim if dim_out is None else dim_out
        width = max(dim, dim_out)
        if width % num_heads:
            raise ValueError(f"{width} channels cannot be split into {num_heads} attention heads")
        self.num_heads = num_heads
        self.query = nn.Linear(dim, width)
        self.key_value = nn.Linear(dim, 2 * width)
        self.out = nn.Linear(width, dim_out)
        for layer in (self.query, self.key_value, self.out):
            init_linear(layer)

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        """Attends; ``context`` may be the queries themselves."""
        query = self._heads(self.query(queries))
        key, value = (self._heads(part) for part in self.key_value(context).chunk(2, dim=-1))
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.out(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _heads(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        return x.reshape(batch, length, self.num_heads, width // self.num_heads).transpose(1, 2)
