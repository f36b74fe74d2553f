"""A decoder that draws pictures: from noise to pixels along a learned flow, in a few steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.backbones.base import Decoder
from vistok.backbones.conv import AttentionBlock, Downsample, ResBlock, Upsample, group_norm
from vistok.backbones.patching import Patcher
from vistok.backbones.rectified_flow import flow_errors, integrate, waves

NUM_FREQUENCIES = 64


class FlowDecoder(Decoder):
    """A small U-Net that learns the way from noise to the image, told the quantized vectors.

    For tokens that leave pixels open, such as a teacher's features: a decoder with a loss on pixels blurs what it cannot
    know, this one draws one possible picture. The drawing starts from noise that ``seed`` and the size of the image
    decide, so equal tokens give equal pictures, in a batch as alone.

    Source: Liu et al., Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow (2023),
    arXiv:2209.03003, section 2.1; times drawn uniformly, steps of Euler's. The network is ours.

    Args:
        dim: Channels of the quantized vectors.
        channels: Channels at the finest level.
        multipliers: Channels of each level over ``channels``, finest first; the coarsest is the token grid.
        num_res_blocks: Residual blocks of a level on the way down, and on the way up.
        patch: Pixels folded into channels at the finest level, along each axis.
        num_steps: Steps from noise to image; one alone gives a blurred mean.
        seed: Of the noise.

    Shapes:
        quantized (B, h, w, dim) -> image (B, 3, h * factor, w * factor), factor = patch * 2^(len(multipliers) - 1).

    Raises:
        ValueError: no multipliers, or no step.
    """

    def __init__(
        self,
        dim: int,
        channels: int = 96,
        multipliers: Sequence[int] = (1, 2, 3, 4),
        num_res_blocks: int = 2,
        patch: int = 2,
        num_steps: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not multipliers or min(multipliers) < 1 or num_steps < 1:
            raise ValueError(
                f"multipliers and num_steps must be at least 1, they are {tuple(multipliers)} and {num_steps}"
            )
        self.dim, self.factor = dim, patch * 2 ** (len(multipliers) - 1)
        self.num_steps, self.seed = num_steps, seed
        self.patcher = Patcher(patch)
        widths = [channels * multiplier for multiplier in multipliers]
        time_dim = 4 * channels
        self.time = nn.Sequential(
            nn.Linear(2 * NUM_FREQUENCIES, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim), nn.SiLU()
        )
        self.norm_condition = nn.LayerNorm(dim, eps=1e-6)
        self.conditions = nn.ModuleList([nn.Linear(dim, width) for width in widths])
        self.conv_in = nn.Conv2d(3 * patch**2, channels, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width = channels
        for level, wide in enumerate(widths):
            self.down.append(_level(width, wide, num_res_blocks, time_dim))
            width = wide
            if level < len(widths) - 1:
                self.down.append(Downsample(width))
        self.middle = nn.ModuleList(
            [TimedBlock(width, width, time_dim), AttentionBlock(width), TimedBlock(width, width, time_dim)]
        )
        for level in reversed(range(len(widths))):
            self.up.append(_level(width + widths[level], widths[level], num_res_blocks, time_dim))
            width = widths[level]
            if level > 0:
                self.up.append(Upsample(width))
        self.norm_out = group_norm(width)
        self.conv_out = nn.Conv2d(width, 3 * patch**2, 3, padding=1)

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the last convolution."""
        return self.conv_out.get_parameter("weight")

    @property
    def loss_names(self) -> tuple[str, ...]:
        """``flow``."""
        return ("flow",)

    def loss(self, quantized: Tensor, image: Tensor) -> dict[str, Tensor]:
        """``flow``: mean squared error of the velocity at a random time of each image; in evaluation of the same times.

        Shapes:
            quantized (B, h, w, dim), image (B, 3, H, W) in [-1, 1].
        """
        if self.training:
            noise = torch.randn_like(image)
            time = torch.rand(len(image), device=image.device)
        else:
            noise = self._noise(image)
            # spread evenly, so that a validation is the same number again
            time = (torch.arange(len(image), device=image.device) + 0.5) / len(image)
        errors = flow_errors(lambda there, at: self.velocity(there, at, quantized), image, noise, time)
        return {"flow": errors.mean()}

    def forward(self, quantized: Tensor) -> Tensor:
        """Draws."""
        batch, height, width, _ = quantized.shape
        noise = self._noise(quantized.new_empty(batch, 3, height * self.factor, width * self.factor))
        return integrate(lambda there, at: self.velocity(there, at, quantized), noise, self.num_steps)

    def velocity(self, image: Tensor, time: Tensor, quantized: Tensor) -> Tensor:
        """Where to go from a mixture of noise (time 0) and image (time 1).

        Shapes:
            image (B, 3, H, W), time (B,) in [0, 1], quantized (B, H / factor, W / factor, dim) -> (B, 3, H, W).
        """
        moment = self.time(waves(time, NUM_FREQUENCIES).to(quantized.dtype))
        seen = self.norm_condition(quantized)
        told = [condition(seen).permute(0, 3, 1, 2) for condition in self.conditions]
        x = self.conv_in(
            self.patcher(image.to(quantized.dtype)).contiguous(memory_format=torch.channels_last)
        )
        skips: list[Tensor] = []
        for part in self.down:
            if isinstance(part, Downsample):
                x = part(x)
                continue
            x = _run(part, x, moment)
            x = x + F.interpolate(told[len(skips)], size=x.shape[-2:], mode="nearest")
            skips.append(x)
        x = _run(self.middle, x, moment)
        for part in self.up:
            x = part(x) if isinstance(part, Upsample) else _run(part, torch.cat([x, skips.pop()], 1), moment)
        return self.patcher.inverse(self.conv_out(F.silu(self.norm_out(x))))

    def _noise(self, like: Tensor) -> Tensor:
        """The same for every image of a batch; drawn on the CPU, so that every device starts from it."""
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(like.shape[1:], generator=generator)
        return noise.to(like.device, like.dtype).expand(like.shape)


class TimedBlock(ResBlock):
    """A residual block whose inner map is scaled and shifted by what the time says."""

    def __init__(self, channels_in: int, channels_out: int, time_dim: int) -> None:
        super().__init__(channels_in, channels_out)
        self.time = nn.Linear(time_dim, 2 * channels_out)

    def forward(self, x: Tensor, moment: Tensor) -> Tensor:  # type: ignore[override]
        """(B, C, H, W) and (B, time_dim) to (B, C', H, W)."""
        scale, shift = self.time(moment)[:, :, None, None].chunk(2, dim=1)
        y = self.norm2(self.conv1(F.silu(self.norm1(x)))) * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(y))  # type: ignore[no-any-return]


def _level(channels_in: int, channels_out: int, num_blocks: int, time_dim: int) -> nn.ModuleList:
    first = [TimedBlock(channels_in, channels_out, time_dim)]
    return nn.ModuleList(
        first + [TimedBlock(channels_out, channels_out, time_dim) for _ in range(num_blocks - 1)]
    )


def _run(blocks: nn.Module, x: Tensor, moment: Tensor) -> Tensor:
    for block in blocks.children():
        x = block(x, moment) if isinstance(block, TimedBlock) else block(x)
    return x
