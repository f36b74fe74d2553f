"""The decoder of masked autoencoders over a full grid of vectors, as representation autoencoders use it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.backbones.base import Decoder
from vistok.backbones.transformer import Block, init_linear


class MAEDecoder(Decoder):
    """A vision transformer with fixed sine positions and register tokens; each vector becomes a patch.

    With ``dim=768, patch=16, width=1152, depth=28, num_heads=16, mlp_ratio=32/9`` it is RAE's ViT-XL decoder.

    Source: He et al., Masked Autoencoders (2021), arXiv:2111.06377, section 3; Zheng et al., RAE (2025),
    arXiv:2510.11690, section 3.1. Deviations: the positions of any grid span the same 16 units, so that other sizes than
    the trained one decode too.

    Args:
        dim: Channels of the quantized vectors.
        patch: Side of a patch in pixels; the downsampling factor.
        width: Channels of the transformer, a multiple of 4.
        depth: Transformer blocks.
        num_heads: Attention heads.
        mlp_ratio: Hidden channels of an MLP over ``width``.
        num_registers: Learned tokens beside the grid's, without a position.

    Shapes:
        quantized (B, h, w, dim) -> image (B, 3, h * patch, w * patch).

    Raises:
        ValueError: a width that the heads or 4 do not divide.
    """

    def __init__(
        self,
        dim: int,
        patch: int,
        width: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        num_registers: int = 1,
    ) -> None:
        super().__init__()
        if width % num_heads or width % 4:
            raise ValueError(f"width {width} must be a multiple of 4 and of the {num_heads} heads")
        self.dim, self.factor = dim, patch
        self.embed = nn.Linear(dim, width)
        self.registers = nn.Parameter(torch.zeros(num_registers, width))
        # a ratio such as 32/9 is not exact: round to the hidden channels that it means
        ratio = round(width * mlp_ratio) / width + 1e-9
        self.blocks = nn.ModuleList(Block(width, num_heads, ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.to_pixels = nn.Linear(width, 3 * patch**2)
        init_linear(self.to_pixels)

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the linear layer to pixels."""
        return self.to_pixels.get_parameter("weight")

    def forward(self, quantized: Tensor) -> Tensor:
        """Decodes."""
        batch, height, width, _ = quantized.shape
        grid = self.embed(quantized)
        positions = sine_positions(height, width, grid.shape[-1], grid.device)
        grid = (grid + positions.to(grid.dtype)).flatten(1, 2)
        x = torch.cat([self.registers.expand(batch, -1, -1).to(grid.dtype), grid], dim=1)
        for block in self.blocks:
            x = block(x, None)
        x = self.to_pixels(self.norm(x[:, len(self.registers) :]))
        return F.pixel_shuffle(x.unflatten(1, (height, width)).permute(0, 3, 1, 2), self.factor)


def sine_positions(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Sines and cosines of the column in the first half of the channels, of the row in the second; a grid spans 16 units.

    Shapes:
        -> (height, width, channels) in float32.
    """
    quarter = channels // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)

    def encode(count: int) -> Tensor:
        angles = torch.arange(count, dtype=torch.float64)[:, None] * (16 / count) * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1).float().to(device)

    columns, rows = encode(width)[None], encode(height)[:, None]
    shape = (height, width, channels // 2)
    return torch.cat([columns.expand(shape), rows.expand(shape)], dim=-1)
