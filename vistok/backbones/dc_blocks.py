"""The blocks of the deep-compression autoencoder, on maps (B, C, H, W)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Resample = Literal["shuffle", "conv"]


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
            y = y + group_means(F.pixel_unshuffle(x, 2), self.channels_out)
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
        weight, bias = (
            self.weight.to(x.dtype),
            self.bias.to(x.dtype),
        )  # alike, or nothing is fused under autocast
        y = F.rms_norm(x.permute(0, 2, 3, 1), weight.shape, weight, eps=1e-5) + bias
        return y.permute(0, 3, 1, 2)


def group_means(x: Tensor, num_groups: int) -> Tensor:
    """Means over groups of channels in a row: (B, C, H, W) to (B, num_groups, H, W)."""
    batch, channels, height, width = x.shape
    return x.reshape(batch, num_groups, channels // num_groups, height, width).mean(2)
