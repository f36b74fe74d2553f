"""The deep-compression autoencoder: residual convolutions at fine levels, linear attention at coarse ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.backbones.base import Decoder, Encoder, require_multiple
from vistok.backbones.dc_blocks import (
    ChannelNorm,
    DCAttentionBlock,
    DCDown,
    DCResBlock,
    DCUp,
    Resample,
    group_means,
)


class DCEncoder(Encoder):
    """Down to a factor of 32 and beyond; each change of resolution is a residual to a parameter-free reshaping of channels.

    The defaults are the encoder of DC-AE f32c32 on ImageNet. Sana's has ``depths=(2, 2, 2, 3, 3, 3)``, ``scales=(5,)``
    and ``resample="conv"``.

    Source: Chen et al., Deep Compression Autoencoder (2024), arXiv:2410.10733, section 3; linear attention of Cai et
    al., EfficientViT (2022), arXiv:2205.14756, section 3.1.

    Args:
        dim: Channels of the latent; divides ``widths[-1]``.
        widths: Channels of each level, finest first; each level but the last halves the resolution.
        depths: Blocks of each level. 0 at the first level alone: the first convolution halves the resolution then.
        attention_at: Levels, 0 the finest, whose blocks are linear attention with a gated convolution instead of a
            residual block.
        scales: Sides of depthwise kernels over which attention also aggregates queries, keys and values.
        head_dim: Channels of an attention head.
        resample: ``"shuffle"``: a convolution, then pixels folded into channels; ``"conv"``: a strided convolution.

    Shapes:
        image (B, 3, H, W) -> latent (B, H / factor, W / factor, dim), factor = 2^(len(widths) - 1).

    Raises:
        ValueError: widths, depths and levels that do not meet.
        ImageError: H or W not a multiple of the factor.
    """

    def __init__(
        self,
        dim: int = 32,
        widths: Sequence[int] = (128, 256, 512, 512, 1024, 1024),
        depths: Sequence[int] = (0, 4, 8, 2, 2, 2),
        attention_at: Sequence[int] = (3, 4, 5),
        scales: Sequence[int] = (),
        head_dim: int = 32,
        resample: Resample = "shuffle",
    ) -> None:
        super().__init__()
        _check(dim, widths, depths, attention_at, head_dim, scales)
        self.dim, self.factor = dim, 2 ** (len(widths) - 1)
        first = widths[0] if depths[0] else widths[1]
        self.conv_in = (
            nn.Conv2d(3, first, 3, padding=1) if depths[0] else DCDown(3, first, resample, shortcut=False)
        )
        self.stages = nn.ModuleList()
        for level, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            stage = nn.Sequential()
            for _ in range(depth):
                attends = level in attention_at
                stage.append(DCAttentionBlock(width, head_dim, scales) if attends else DCResBlock(width))
            if depth and level < len(widths) - 1:
                stage.append(DCDown(width, widths[level + 1], resample))
            self.stages.append(stage)
        self.conv_out = nn.Conv2d(widths[-1], dim, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Encodes."""
        require_multiple(image, self.factor)
        x = self.conv_in(image.contiguous(memory_format=torch.channels_last))
        for stage in self.stages:
            x = stage(x)
        x = self.conv_out(x) + group_means(x, self.dim)
        return x.permute(0, 2, 3, 1).contiguous()  # type: ignore[no-any-return]


class DCDecoder(Decoder):
    """The mirror of ``DCEncoder``.

    The defaults are the decoder of DC-AE f32c32 on ImageNet but for its normalisation; Sana's has
    ``depths=(3, 3, 3, 3, 3, 3)``, ``scales=(5,)`` and ``resample="conv"``.

    Source: as ``DCEncoder``. Deviations: where the ImageNet models end a residual block with batch normalisation,
    RMS normalisation over channels, as Sana's do.

    Args:
        dim: Channels of the quantized vectors; divides ``widths[-1]``.
        widths: As the encoder's, finest level first.
        depths: As the encoder's.
        attention_at: As the encoder's.
        scales: As the encoder's.
        head_dim: As the encoder's.
        resample: ``"shuffle"``: a convolution, then channels unfolded; ``"conv"``: nearest neighbours, then a convolution.
        folded_at: Levels whose residual blocks have ReLU and end with a bias: the ImageNet checkpoints', whose batch
            normalisation is folded into the convolution before it.

    Shapes:
        quantized (B, h, w, dim) -> image (B, 3, h * factor, w * factor), factor = 2^(len(widths) - 1).

    Raises:
        ValueError: widths, depths and levels that do not meet.
    """

    def __init__(
        self,
        dim: int = 32,
        widths: Sequence[int] = (128, 256, 512, 512, 1024, 1024),
        depths: Sequence[int] = (0, 5, 10, 2, 2, 2),
        attention_at: Sequence[int] = (3, 4, 5),
        scales: Sequence[int] = (),
        head_dim: int = 32,
        resample: Resample = "shuffle",
        folded_at: Sequence[int] = (),
    ) -> None:
        super().__init__()
        _check(dim, widths, depths, attention_at, head_dim, scales)
        self.dim, self.factor = dim, 2 ** (len(widths) - 1)
        self.repeats = widths[-1] // dim
        self.conv_in = nn.Conv2d(dim, widths[-1], 3, padding=1)
        self.stages = nn.ModuleList()
        for level, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            stage = nn.Sequential()
            if depth and level < len(widths) - 1:
                stage.append(DCUp(widths[level + 1], width, resample))
            for _ in range(depth):
                attends = level in attention_at
                stage.append(
                    DCAttentionBlock(width, head_dim, scales)
                    if attends
                    else DCResBlock(width, folded=level in folded_at)
                )
            self.stages.append(stage)
        last = widths[0] if depths[0] else widths[1]
        self.norm_out = ChannelNorm(last)
        self.conv_out = (
            nn.Conv2d(last, 3, 3, padding=1) if depths[0] else DCUp(last, 3, resample, shortcut=False)
        )

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the last convolution."""
        last = self.conv_out.conv if isinstance(self.conv_out, DCUp) else self.conv_out
        return last.get_parameter("weight")

    def forward(self, quantized: Tensor) -> Tensor:
        """Decodes."""
        x = quantized.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        x = self.conv_in(x) + x.repeat_interleave(self.repeats, dim=1)
        for stage in reversed(self.stages):
            x = stage(x)
        return self.conv_out(F.relu(self.norm_out(x)))  # type: ignore[no-any-return]


def _check(
    dim: int,
    widths: Sequence[int],
    depths: Sequence[int],
    attention_at: Sequence[int],
    head_dim: int,
    scales: Sequence[int],
) -> None:
    if len(widths) != len(depths) or len(widths) < 2:
        raise ValueError(
            f"widths and depths name two or more levels each, these are {len(widths)} and {len(depths)}"
        )
    if min(depths[1:]) < 1 or depths[0] < 0:
        raise ValueError(f"every level but the first has one block or more, the depths are {tuple(depths)}")
    if any(side < 1 or side % 2 == 0 for side in scales) or head_dim < 1:
        raise ValueError(f"scales are odd sides and head_dim at least 1, not {tuple(scales)} and {head_dim}")
    if dim < 1 or widths[-1] % dim:
        raise ValueError(f"dim {dim} must divide the coarsest width, {widths[-1]}")
    start = 0 if depths[0] else 1
    for finer, coarser in zip(widths[start:], widths[start + 1 :], strict=False):
        if 4 * finer % coarser:
            raise ValueError(
                f"a level of width {coarser} cannot follow one of {finer}: it must divide {4 * finer}"
            )
    for level in attention_at:
        if not 0 <= level < len(widths) or widths[level] % head_dim:
            raise ValueError(
                f"attention_at names level {level}: it must be one of {len(widths)}, of a width that head_dim {head_dim} divides"
            )
