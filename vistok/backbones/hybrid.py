"""Convolutions where the map is fine, a transformer where it is coarse: the autoencoder of UniTok."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.backbones.base import Decoder, Encoder, require_multiple
from vistok.backbones.transformer import Transformer

EXPANSION = 4


class HybridEncoder(Encoder):
    """A convolutional stem down to one sixteenth of the resolution, then a vision transformer: a ViTamin.

    The defaults of the stem with ``width=1024, depth=31, num_heads=16`` are ViTamin-L, up to its positions.

    Source: Chen et al., ViTamin: Designing Scalable Vision Models in the Vision-language Era (2024), arXiv:2404.02132,
    section 3. Deviations: rotary positions; an MLP of ratio 3 in the place of a gated one of ratio 2, which has as many
    weights.

    Args:
        width: Channels of the transformer and of the latent.
        depth: Transformer blocks.
        num_heads: Attention heads.
        stem: Channels of each stage of convolutions, finest first. The first convolution, each stage and the way into the
            transformer halve the resolution.
        stem_depths: Blocks of each stage.
        mlp_ratio: Hidden channels of an MLP over ``width``.

    Shapes:
        image (B, 3, H, W) -> latent (B, H / factor, W / factor, width), factor = 2^(len(stem) + 2), 16 by default.

    Raises:
        ValueError: no stage, stages without depths, or a width that the heads do not divide.
        ImageError: H or W not a multiple of the factor.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        num_heads: int,
        stem: Sequence[int] = (160, 320),
        stem_depths: Sequence[int] = (2, 4),
        mlp_ratio: float = 3.0,
    ) -> None:
        super().__init__()
        self.dim, self.factor = width, _factor_of(stem, stem_depths)
        first = stem[0]
        self.conv_in = nn.Sequential(
            nn.Conv2d(3, first, 3, stride=2, padding=1),
            ChannelNorm(first),
            nn.GELU(),
            nn.Conv2d(first, first, 3, padding=1),
        )
        self.stages = _conv_stages(first, stem, stem_depths, _halve)
        self.to_width = nn.Sequential(
            ChannelNorm(stem[-1]), nn.Conv2d(stem[-1], width, 3, stride=2, padding=1)
        )
        self.transformer = Transformer(width, depth, num_heads, mlp_ratio)

    def forward(self, image: Tensor) -> Tensor:
        """Encodes."""
        require_multiple(image, self.factor)
        x = self.conv_in(image.contiguous(memory_format=torch.channels_last))
        for stage in self.stages:
            x = stage(x)
        return self.transformer(self.to_width(x).permute(0, 2, 3, 1))  # type: ignore[no-any-return]


class HybridDecoder(Decoder):
    """The mirror of ``HybridEncoder``: the transformer first, then convolutions up to pixels.

    Source: Ma et al., UniTok (2025), arXiv:2502.20321, section 3. Deviations: those of the encoder; inside a block the
    map is enlarged by nearest neighbour alone, without a dense convolution after it.

    Args:
        width: Channels of the quantized vectors and of the transformer.
        depth: Transformer blocks.
        num_heads: Attention heads.
        stem: As the encoder's, finest stage first.
        stem_depths: As the encoder's.
        mlp_ratio: Hidden channels of an MLP over ``width``.

    Shapes:
        quantized (B, h, w, width) -> image (B, 3, h * factor, w * factor), factor = 2^(len(stem) + 2).

    Raises:
        ValueError: as the encoder.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        num_heads: int,
        stem: Sequence[int] = (160, 320),
        stem_depths: Sequence[int] = (2, 4),
        mlp_ratio: float = 3.0,
    ) -> None:
        super().__init__()
        self.dim, self.factor = width, _factor_of(stem, stem_depths)
        self.transformer = Transformer(width, depth, num_heads, mlp_ratio)
        first, last = stem[0], stem[-1]
        self.from_width = nn.Sequential(_double(), nn.Conv2d(width, last, 3, padding=1))
        self.stages = _conv_stages(last, stem[::-1], stem_depths[::-1], _double)
        self.to_pixels = nn.Sequential(
            _double(),
            nn.Conv2d(first, first, 3, padding=1),
            ChannelNorm(first),
            nn.GELU(),
            nn.Conv2d(first, 3, 3, padding=1),
        )

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the last convolution."""
        last = self.to_pixels[-1]
        return last.get_parameter("weight")

    def forward(self, quantized: Tensor) -> Tensor:
        """Decodes."""
        x = self.from_width(self.transformer(quantized).permute(0, 3, 1, 2))
        for stage in self.stages:
            x = stage(x)
        return self.to_pixels(x)  # type: ignore[no-any-return]


class ConvBlock(nn.Module):
    """A normalised inverted bottleneck (1x1, depthwise 3x3, 1x1) around a skip: (B, C, H, W) to (B, C', H', W').

    Args:
        channels_in: C.
        channels_out: C'.
        resize: Changes the resolution, of the skip too, without weights; None keeps it. Where it makes the map smaller,
            the depthwise convolution strides instead.
    """

    def __init__(self, channels_in: int, channels_out: int, resize: nn.Module | None = None) -> None:
        super().__init__()
        hidden = EXPANSION * channels_out
        shrinks = isinstance(resize, nn.AvgPool2d)
        same = channels_in == channels_out
        self.resize = nn.Identity() if resize is None else resize
        self.widen = nn.Identity() if resize is None or shrinks else resize
        self.skip = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)
        self.norm = ChannelNorm(channels_in)
        self.expand = nn.Conv2d(channels_in, hidden, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride=2 if shrinks else 1, padding=1, groups=hidden)
        self.reduce = nn.Conv2d(hidden, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Adds the residual."""
        y = self.widen(F.gelu(self.expand(self.norm(x))))
        y = self.reduce(F.gelu(self.depthwise(y)))
        return self.skip(self.resize(x)) + y  # type: ignore[no-any-return]


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each position of a map (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Normalises; a map in torch.channels_last is not copied."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _halve() -> nn.AvgPool2d:
    return nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)


def _double() -> nn.Upsample:
    return nn.Upsample(scale_factor=2, mode="nearest")


def _conv_stages(
    channels: int, stem: Sequence[int], stem_depths: Sequence[int], resize: Callable[[], nn.Module]
) -> nn.ModuleList:
    """Stages of blocks in the order of computation; the first block of each changes channels and resolution."""
    stages = nn.ModuleList()
    for channels_out, num_blocks in zip(stem, stem_depths, strict=True):
        blocks: list[nn.Module] = [ConvBlock(channels, channels_out, resize())]
        blocks += [ConvBlock(channels_out, channels_out) for _ in range(num_blocks - 1)]
        stages.append(nn.Sequential(*blocks))
        channels = channels_out
    return stages


def _factor_of(stem: Sequence[int], stem_depths: Sequence[int]) -> int:
    """Pixels per grid point of such a stem, after checking it."""
    if not stem or len(stem) != len(stem_depths) or min(*stem, *stem_depths) < 1:
        raise ValueError(
            f"stem and stem_depths hold a positive number for every stage, they are {tuple(stem)} and {tuple(stem_depths)}"
        )
    return 1 << (len(stem) + 2)
