"""The transformer autoencoder: patches in, patches out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.backbones.base import Decoder, Encoder, require_multiple
from vistok.backbones.transformer import Transformer, init_linear

Positions = Literal["rope", "learned"]


class ViTEncoder(Encoder):
    """A vision transformer without class token: each patch becomes one latent of ``width`` channels.

    Source: Yu et al., ViT-VQGAN (2022), arXiv:2110.04627, section 3.1. Deviations: rotary positions by default.

    Args:
        patch: Side of a patch in pixels; the downsampling factor.
        width: Channels of the transformer and of the latent.
        depth: Transformer blocks.
        num_heads: Attention heads.
        positions: ``"rope"`` turns queries and keys and serves any grid; ``"learned"`` adds one vector a position.
        grid: (h, w) of the learned positions; other grids get them resized, bicubic.
        mlp_ratio: Hidden channels of an MLP over ``width``.

    Shapes:
        image (B, 3, H, W) -> latent (B, H / patch, W / patch, width).

    Raises:
        ValueError: learned positions without a grid, or a width that the heads do not divide.
        ImageError: H or W not a multiple of the patch.
    """

    def __init__(
        self,
        patch: int,
        width: int,
        depth: int,
        num_heads: int,
        positions: Positions = "rope",
        grid: Sequence[int] | None = None,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.dim, self.factor = width, patch
        self.embed = nn.Conv2d(3, width, patch, stride=patch)
        self.positions = _positions(positions, grid, width)
        self.transformer = Transformer(width, depth, num_heads, mlp_ratio, rope=positions == "rope")

    def forward(self, image: Tensor) -> Tensor:
        """Encodes."""
        require_multiple(image, self.factor)
        x = self.embed(image.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)
        return self.transformer(self.positions(x))  # type: ignore[no-any-return]


class ViTDecoder(Decoder):
    """The mirror of ``ViTEncoder``: each vector becomes a patch, and a 3x3 convolution smooths the seams.

    Source: as ``ViTEncoder``. Deviations: the convolution, and a single linear layer to pixels.

    Args:
        patch: Side of a patch in pixels; the downsampling factor.
        width: Channels of the transformer and of the quantized vectors.
        depth: Transformer blocks.
        num_heads: Attention heads.
        positions: As the encoder's.
        grid: As the encoder's.
        mlp_ratio: Hidden channels of an MLP over ``width``.
        smooth: Ends in a 3x3 convolution over pixels, which starts as the identity.

    Shapes:
        quantized (B, h, w, width) -> image (B, 3, h * patch, w * patch).

    Raises:
        ValueError: learned positions without a grid, or a width that the heads do not divide.
    """

    def __init__(
        self,
        patch: int,
        width: int,
        depth: int,
        num_heads: int,
        positions: Positions = "rope",
        grid: Sequence[int] | None = None,
        mlp_ratio: float = 4.0,
        smooth: bool = True,
    ) -> None:
        super().__init__()
        self.dim, self.factor = width, patch
        self.positions = _positions(positions, grid, width)
        self.transformer = Transformer(width, depth, num_heads, mlp_ratio, rope=positions == "rope")
        self.to_pixels = nn.Linear(width, 3 * patch**2)
        init_linear(self.to_pixels)
        self.smooth = nn.Conv2d(3, 3, 3, padding=1) if smooth else None
        if self.smooth is not None:
            nn.init.dirac_(self.smooth.weight)
            nn.init.zeros_(self.smooth.get_parameter("bias"))

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the last convolution, or of the linear layer to pixels where there is none."""
        return (self.to_pixels if self.smooth is None else self.smooth).get_parameter("weight")

    def forward(self, quantized: Tensor) -> Tensor:
        """Decodes."""
        x = self.to_pixels(self.transformer(self.positions(quantized)))
        image = F.pixel_shuffle(x.permute(0, 3, 1, 2), self.factor)
        return image if self.smooth is None else self.smooth(image)


class LearnedPositions(nn.Module):
    """Adds one learned vector a position to (B, h, w, C), resized with bicubic interpolation to grids of another size."""

    def __init__(self, grid: Sequence[int], width: int) -> None:
        super().__init__()
        height, columns = grid
        self.table = nn.Parameter(torch.empty(1, height, columns, width))
        nn.init.normal_(self.table, std=width**-0.5)  # 0.02 is too little in narrow ones

    def forward(self, x: Tensor) -> Tensor:
        """Adds the positions."""
        table: Tensor = self.table
        if table.shape[1:3] != x.shape[1:3]:
            channels_first = table.permute(0, 3, 1, 2).float()  # bicubic has no bfloat16 kernel everywhere
            resized = F.interpolate(channels_first, size=x.shape[1:3], mode="bicubic", antialias=True)
            table = resized.permute(0, 2, 3, 1).to(table.dtype)
        return x + table


def _positions(positions: str, grid: Sequence[int] | None, width: int) -> nn.Module:
    if positions == "rope":
        return nn.Identity()
    if positions != "learned":
        raise ValueError(f'positions is "rope" or "learned", not {positions!r}')
    if grid is None:
        raise ValueError("learned positions need grid=(h, w), the token grid of the training images")
    return LearnedPositions(grid, width)
