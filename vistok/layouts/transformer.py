"""The transformer that models of tokens share, along a sequence or along the groups of a position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INIT_STD = 0.02


class Transformer(nn.Module):
    """Pre-norm blocks with dropout, a final normalisation included; what sees what is the caller's mask.

    Source: Radford et al., Language Models are Unsupervised Multitask Learners (2019), section 2.3; with ``conditioned``
    each block is scaled, shifted and gated by a vector, which starts at nothing: Peebles and Xie, DiT (2023),
    arXiv:2212.09748, section 3.2, adaLN-Zero.

    Args:
        width: Channels, a multiple of ``num_heads``.
        depth: Blocks.
        num_heads: Attention heads.
        dropout: Of each branch, in [0, 1).
        conditioned: Whether ``forward`` takes a condition.

    Shapes:
        x (B, N, width), mask (N, N) boolean, True where a row sees a column, condition (B, width) -> (B, N, width).

    Raises:
        ValueError: a width that the heads do not divide.
    """

    def __init__(
        self, width: int, depth: int, num_heads: int, dropout: float = 0.0, conditioned: bool = False
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width {width} is not a multiple of {num_heads} heads")
        self.blocks = nn.ModuleList([Block(width, num_heads, dropout, conditioned) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)

    def forward(
        self, x: Tensor, *, causal: bool = False, mask: Tensor | None = None, condition: Tensor | None = None
    ) -> Tensor:
        """All blocks; ``causal`` is the mask of a sequence in which nothing sees what comes later."""
        for block in self.blocks:
            x = block(x, causal, mask, condition)
        return self.norm(x)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, then an MLP, each normalised before and added to the stream (B, N, C)."""

    def __init__(self, width: int, num_heads: int, dropout: float, conditioned: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)
        self.modulation = nn.Linear(width, 6 * width) if conditioned else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, causal: bool, mask: Tensor | None, condition: Tensor | None) -> Tensor:
        """One block."""
        if self.modulation is None:
            x = x + self.dropout(self._attend(self.norm1(x), causal, mask))
            return x + self.dropout(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]
        assert condition is not None
        modulation = self.modulation(F.silu(condition))[:, None].chunk(6, dim=-1)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation
        attended = self._attend(self.norm1(x) * (1 + scale1) + shift1, causal, mask)
        x = x + gate1 * self.dropout(attended)
        return x + gate2 * self.dropout(self.mlp(self.norm2(x) * (1 + scale2) + shift2))  # type: ignore[no-any-return]

    def _attend(self, x: Tensor, causal: bool, mask: Tensor | None) -> Tensor:
        batch, length, width = x.shape
        heads = self.qkv(x).view(batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
        return self.out(attended.transpose(1, 2).reshape(batch, length, width))  # type: ignore[no-any-return]


class AlongGroups(nn.Module):
    """What scores each group of a position, given those before it: a small causal transformer along the groups.

    Group s reads the position's hidden vector plus the sum of the embeddings of the groups before it.

    Source: Lee et al., Autoregressive Image Generation using Residual Quantization (2022), arXiv:2203.01941, section
    3.2.2 (depth transformer), which gives the hidden vector to the first group alone.

    Args:
        num_groups: S.
        width: C, channels of hidden vectors and embeddings.
        depth: Blocks.
        num_heads: Attention heads; they divide the width.

    Shapes:
        hidden (..., C), embeddings of the first P groups, each (..., C) -> (..., min(P + 1, S), C).
    """

    def __init__(self, num_groups: int, width: int, depth: int, num_heads: int) -> None:
        super().__init__()
        self.blocks = Transformer(width, depth, num_heads)
        self.places = nn.Parameter(torch.randn(num_groups, width) * INIT_STD)

    def forward(self, hidden: Tensor, embeddings: Sequence[Tensor]) -> Tensor:
        """States of the groups that these embeddings lead to."""
        steps, total = [hidden], hidden
        for embedding in embeddings[: len(self.places) - 1]:
            total = total + embedding
            steps.append(total)
        sequence = torch.stack(steps, dim=-2) + self.places[: len(steps)]
        states: Tensor = self.blocks(sequence.flatten(0, -3), causal=True)
        return states.view(sequence.shape)
