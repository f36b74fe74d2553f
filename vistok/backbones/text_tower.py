"""Networks that embed captions, for contrastive losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vistok.backbones.transformer import Block, init_linear
from vistok.recorded import Recorded


class TextTower(Recorded, nn.Module):
    """Captions to vectors (B, dim), not scaled to length 1.

    A subclass sets ``dim`` and writes ``tokenize`` and ``encode``.
    """

    dim: int

    def forward(self, captions: Sequence[str]) -> Tensor:
        """Embeds captions on the device of the weights: B of them -> (B, dim)."""
        return self.encode(self.tokenize(captions).to(next(self.parameters()).device))

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Captions to ids (B, L) int64, 0 beyond the end of a caption; L is that of the longest one."""
        raise NotImplementedError

    def encode(self, ids: Tensor) -> Tensor:
        """Ids (B, L) to vectors (B, dim)."""
        raise NotImplementedError


class ByteTower(TextTower):
    """A small transformer over the bytes of a caption, to be trained from scratch; it needs no vocabulary.

    Every byte sees all others; the mean over them, projected, is the vector.

    Source: Radford et al., CLIP (2021), arXiv:2103.00020, section 2.4; bytes after Xue et al., ByT5 (2022),
    arXiv:2105.13626. Deviations: attention in both directions and the mean, as the captions are never generated.

    Args:
        dim: Channels of the vectors.
        width: Channels of the transformer.
        depth: Transformer blocks.
        num_heads: Attention heads.
        context: The longest caption in bytes of UTF-8; what is beyond is cut.

    Shapes:
        B captions -> (B, dim).

    Raises:
        ValueError: a width that the heads do not divide, or no context.
    """

    def __init__(
        self, dim: int, width: int = 512, depth: int = 12, num_heads: int = 8, context: int = 256
    ) -> None:
        super().__init__()
        if width % num_heads or context < 1:
            raise ValueError(
                f"width {width} must be a multiple of the {num_heads} heads and context {context} at least 1"
            )
        self.dim, self.context = dim, context
        self.table = nn.Embedding(START + 1, width, padding_idx=PADDING)
        self.positions = nn.Parameter(torch.empty(context + 1, width))
        self.blocks = nn.ModuleList([Block(width, num_heads, mlp_ratio=4.0) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.project = nn.Linear(width, dim)
        init_linear(self.project)
        for weight in (self.table.weight, self.positions):
            nn.init.trunc_normal_(weight, std=0.02)

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """A start, then each byte plus one; the longest caption decides L."""
        texts = [caption.encode("utf-8")[: self.context] for caption in captions]
        ids = torch.full((len(texts), 1 + max(map(len, texts), default=0)), PADDING)
        ids[:, 0] = START
        for row, text in enumerate(texts):
            ids[row, 1 : 1 + len(text)] = torch.tensor(list(text), dtype=torch.int64) + 1
        return ids

    def encode(self, ids: Tensor) -> Tensor:
        """Embeds ids (B, L), L at most one more than ``context``."""
        real = ids != PADDING
        x = self.table(ids) + self.positions[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, None, real[:, None, None, :])
        return self.project(masked_mean(self.norm(x), real))  # type: ignore[no-any-return]


PADDING = 0
START = 257  # ids 1 to 256 are the bytes


def masked_mean(x: Tensor, real: Tensor) -> Tensor:
    """The mean of the vectors that are there: x (B, L, D), real (B, L) boolean -> (B, D)."""
    weights = real.to(x.dtype)[:, :, None]
    return (x * weights).sum(dim=1) / weights.sum(dim=1)
