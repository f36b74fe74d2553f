"""The deep-compression autoencoder: residual convolutions at fine levels, linear attention at coarse ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.backbones.base import Decoder, Encoder, require_multiple

Resample = Literal["shuffle", "conv"]


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
        _check(dim, widths, depths, attention_at, head_dim)
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
        x = self.conv_out(x) + x.unflatten(1, (self.dim, -1)).mean(2)
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
        _check(dim, widths, depths, attention_at, head_dim)
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


class DCResBlock(nn.Module):
    """Two 3x3 convolutions around a skip, normalised last: (B, C, H, W) to the same shape; ``folded`` as ``DCDecoder`` says."""

    def __init__(self, channels: int, folded: bool = False) -> None:
        super().__init__()
        self.folded = folded
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=folded)
        self.norm = nn.Identity() if folded else ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Adds the residual."""
        y = self.conv1(x)
        y = F.relu(y) if self.folded else F.silu(y)
        return x + self.norm(self.conv2(y))  # type: ignore[no-any-return]


class DCAttentionBlock(nn.Module):
    """Linear attention, then a gated depthwise convolution, each with a skip: (B, C, H, W) to the same shape."""

    def __init__(self, channels: int, head_dim: int, scales: Sequence[int]) -> None:
        super().__init__()
        self.attention = LinearAttention(channels, head_dim, scales)
        self.mlp = GatedConv(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Lets every position see every other, then mixes channels."""
        x = x + self.attention(x)
        return x + self.mlp(x)  # type: ignore[no-any-return]


class LinearAttention(nn.Module):
    """Attention whose weights are products of rectified queries and keys, at a cost linear in the positions.

    Every 3 ``head_dim`` channels in a row, of the queries, keys and values and of their aggregates over ``scales``, are one head.
    """

    def __init__(self, channels: int, head_dim: int, scales: Sequence[int]) -> None:
        super().__init__()
        self.head_dim, inner = head_dim, 3 * channels
        self.qkv = nn.Conv2d(channels, inner, 1, bias=False)
        self.aggregates = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inner, inner, side, padding=side // 2, groups=inner, bias=False),
                nn.Conv2d(inner, inner, 1, groups=inner // head_dim, bias=False),
            )
            for side in scales
        )
        self.out = nn.Conv2d(channels * (1 + len(scales)), channels, 1, bias=False)
        self.norm = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        batch, _, height, width = x.shape
        qkv = self.qkv(x)
        qkv = torch.cat([qkv, *(aggregate(qkv) for aggregate in self.aggregates)], dim=1)
        with torch.autocast(
            x.device.type, enabled=False
        ):  # sums over all positions: half precision would overflow
            heads = qkv.reshape(batch, -1, 3 * self.head_dim, height * width).float()
            query, key, value = heads.chunk(3, dim=2)
            value = F.pad(value, (0, 0, 0, 1), value=1.0)  # the row of ones gives the sum of the weights
            mixed = value @ F.relu(key).transpose(-1, -2) @ F.relu(query)
            mixed = mixed[:, :, :-1] / (mixed[:, :, -1:] + 1e-15)
        mixed = mixed.reshape(batch, -1, height, width).to(qkv.dtype)
        return self.norm(self.out(mixed))  # type: ignore[no-any-return]


class GatedConv(nn.Module):
    """A 1x1 convolution to twice four times the channels, a depthwise 3x3 one, half of it gating the other, and back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, 8 * channels, 1)
        self.depthwise = nn.Conv2d(8 * channels, 8 * channels, 3, padding=1, groups=8 * channels)
        self.contract = nn.Conv2d(4 * channels, channels, 1, bias=False)
        self.norm = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        value, gate = self.depthwise(F.silu(self.expand(x))).chunk(2, dim=1)
        return self.norm(self.contract(value * F.silu(gate)))  # type: ignore[no-any-return]


class DCDown(nn.Module):
    """Halves the resolution: a convolution, added to the mean over groups of the pixels folded into channels."""

    def __init__(
        self, channels_in: int, channels_out: int, resample: Resample, shortcut: bool = True
    ) -> None:
        super().__init__()
        self.channels_out, self.shortcut, self.shuffle = channels_out, shortcut, resample == "shuffle"
        made = channels_out // 4 if self.shuffle else channels_out
        self.conv = nn.Conv2d(channels_in, made, 3, stride=1 if self.shuffle else 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H / 2, W / 2)."""
        y = self.conv(x)
        y = F.pixel_unshuffle(y, 2) if self.shuffle else y
        if self.shortcut:
            y = y + F.pixel_unshuffle(x, 2).unflatten(1, (self.channels_out, -1)).mean(2)
        return y  # type: ignore[no-any-return]


class DCUp(nn.Module):
    """Doubles the resolution: a convolution, added to the channels repeated and unfolded into pixels."""

    def __init__(
        self, channels_in: int, channels_out: int, resample: Resample, shortcut: bool = True
    ) -> None:
        super().__init__()
        self.repeats, self.shortcut = channels_out * 4 // channels_in, shortcut
        self.shuffle = resample == "shuffle"
        self.conv = nn.Conv2d(channels_in, channels_out * (4 if self.shuffle else 1), 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', 2H, 2W)."""
        y = (
            F.pixel_shuffle(self.conv(x), 2)
            if self.shuffle
            else self.conv(F.interpolate(x, scale_factor=2.0))
        )
        if self.shortcut:
            y = y + F.pixel_shuffle(x.repeat_interleave(self.repeats, dim=1), 2)
        return y  # type: ignore[no-any-return]


class ChannelNorm(nn.Module):
    """RMS normalisation over the channels of each position of (B, C, H, W), with a scale and a shift a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises."""
        y = F.rms_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, eps=1e-5) + self.bias
        return y.permute(0, 3, 1, 2)


def _check(
    dim: int, widths: Sequence[int], depths: Sequence[int], attention_at: Sequence[int], head_dim: int
) -> None:
    if len(widths) != len(depths) or len(widths) < 2:
        raise ValueError(
            f"widths and depths name two or more levels each, these are {len(widths)} and {len(depths)}"
        )
    if min(depths[1:]) < 1 or depths[0] < 0:
        raise ValueError(f"every level but the first has one block or more, the depths are {tuple(depths)}")
    if widths[-1] % dim:
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
