"""Pre-norm transformer blocks over a grid of vectors, with rotary positions in two dimensions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROPE_BASE = 100.0


class Transformer(nn.Module):
    """Self-attention over the positions of a grid, a final normalisation included.

    Source: Dosovitskiy et al., ViT (2021), arXiv:2010.11929, section 3.1; axial rotary positions with base 100: Heo
    et al., Rotary Position Embedding for Vision Transformer (2024), arXiv:2403.13298, section 3.2.

    Args:
        width: Channels, a multiple of ``num_heads``; with rotary positions, of ``4 * num_heads``.
        depth: Blocks; 0 leaves the final normalisation alone.
        num_heads: Attention heads.
        mlp_ratio: Hidden channels of a block's MLP over ``width``.
        rope: Rotate queries and keys by row and column, which serves grids of any size; without, positions are the
            caller's to add.

    Shapes:
        x (B, h, w, width) -> (B, h, w, width).

    Raises:
        ValueError: a width that the heads do not divide as said.
    """

    def __init__(
        self, width: int, depth: int, num_heads: int, mlp_ratio: float = 4.0, rope: bool = True
    ) -> None:
        super().__init__()
        multiple = num_heads * (4 if rope else 1)
        if width % multiple:
            raise ValueError(f"width {width} with {num_heads} heads must be a multiple of {multiple}")
        self.head_dim = width // num_heads
        self.rope = rope
        self.blocks = nn.ModuleList([Block(width, num_heads, mlp_ratio) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Lets every position see every other."""
        batch, height, width, channels = x.shape
        rotation = rotation_2d(height, width, self.head_dim, x.device) if self.rope else None
        tokens = x.reshape(batch, height * width, channels)
        for block in self.blocks:
            tokens = block(tokens, rotation)
        return self.norm(tokens).reshape(batch, height, width, channels)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, then an MLP, each normalised before and added to the stream (B, N, C)."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        for layer in (self.qkv, self.out, self.mlp[0], self.mlp[2]):
            init_linear(layer)

    def forward(self, x: Tensor, rotation: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """One block; ``rotation`` as ``rotation_2d`` makes it, or None; ``mask`` (..., N, N) true where row sees column."""
        x = x + self._attend(self.norm1(x), rotation, mask)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]

    def _attend(self, x: Tensor, rotation: Tensor | None, mask: Tensor | None) -> Tensor:
        batch, num_tokens, width = x.shape
        heads = self.qkv(x).view(batch, num_tokens, 3, self.num_heads, width // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(attended.transpose(1, 2).reshape(batch, num_tokens, width))  # type: ignore[no-any-return]


def rotation_2d(height: int, width: int, head_dim: int, device: torch.device | None = None) -> Tensor:
    """Cosines and sines of the angles by which each position of a grid turns a head's channel pairs.

    The first half of the angles counts rows, the second columns, so that the product of two turned vectors depends
    on their positions by (row - row', column - column') only.

    Shapes:
        -> (2, height * width, head_dim / 2) in float32: cosines, then sines.
    """
    quarter = head_dim // 4
    frequencies = ROPE_BASE ** (-torch.arange(quarter, device=device, dtype=torch.float32) / quarter)
    rows = torch.arange(height, device=device)[:, None, None] * frequencies
    columns = torch.arange(width, device=device)[None, :, None] * frequencies
    shape = (height, width, quarter)
    angles = torch.cat([rows.expand(shape), columns.expand(shape)], dim=-1).reshape(
        height * width, 2 * quarter
    )
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turns channel i and channel i + D/2 of each vector by its position's angle i; in float32, whatever x is in.

    Shapes:
        x (B, heads, N, D), rotation (2, N, D / 2) -> (B, heads, N, D) in the dtype of x.
    """
    cosine, sine = rotation
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    return turned.to(x.dtype)


def init_linear(layer: nn.Module) -> None:
    """ViT's initial weights: a normal distribution of deviation 0.02, cut at 2, and no bias."""
    assert isinstance(layer, nn.Linear)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
