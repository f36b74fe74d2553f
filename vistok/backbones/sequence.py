"""A transformer over a sequence whose positions are the caller's to add and to hide."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vistok.backbones.transformer import Block


class SequenceTransformer(nn.Module):
    """Normalises, lets every position see those that a mask permits, and normalises again.

    Source: the transformer of Yu et al., TiTok (2024), arXiv:2406.07550, section 3.2, which normalises before the first
    block too.

    Args:
        width: Channels, a multiple of ``num_heads``.
        depth: Blocks.
        num_heads: Attention heads.

    Shapes:
        x (B, N, width), mask (..., N, N) -> (B, N, width).

    Raises:
        ValueError: a width that the heads do not divide.
    """

    def __init__(self, width: int, depth: int, num_heads: int) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width {width} must be a multiple of the {num_heads} heads")
        self.norm_in = nn.LayerNorm(width, eps=1e-6)
        self.blocks = nn.ModuleList([Block(width, num_heads, mlp_ratio=4.0) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Runs; ``mask`` is true where the position of its row sees that of its column."""
        x = self.norm_in(x)
        for block in self.blocks:
            x = block(x, None, mask)
        return self.norm(x)  # type: ignore[no-any-return]


def learned_vectors(count: int, width: int) -> nn.Parameter:
    """Vectors (1, count, width) to learn, of length 1 or so at first.

    At ViT's deviation of 0.02 the vectors of a narrow transformer are too much alike: a query finds no place of its own to
    look at, and a small 1-D tokenizer stays at a grey picture.
    """
    vectors = nn.Parameter(torch.empty(1, count, width))
    nn.init.normal_(vectors, std=width**-0.5)
    return vectors


def valid(lengths: Tensor, longest: int) -> Tensor:
    """Which places of sequences of so many are taken: (B,) -> (B, longest) boolean."""
    return torch.arange(longest, device=lengths.device) < lengths[:, None]
