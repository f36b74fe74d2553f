"""The decoder that the quantized vectors modulate at every resolution, and Emu3's convolutions in time on a still image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.backbones.conv import AttentionBlock, ResBlock, UpsamplingDecoder, group_norm
from vistok.recorded import Recorded


class ModulatedDecoder(UpsamplingDecoder):
    """VQGAN's decoder with every normalisation scaled and shifted, position by position, by the quantized vectors.

    The vectors come twice: projected, as the input, and as the quantizer gave them, for the modulation. With the
    defaults, ``dim=4``, ``code_dim=4`` it is the decoder of SBER-MoVQGAN's smallest model; Emu3's has ``channels=256``
    and a ``refine``.

    Source: Zheng et al., MoVQ (2022), arXiv:2209.09002, section 3.2; SBER-MoVQGAN has no paper of its own. Deviations:
    fewer than 32 normalisation groups below 128 channels.

    Args:
        dim: Channels of the projected vectors.
        code_dim: Channels of the vectors that modulate.
        channels: Channels at the finest level.
        multipliers: Channels of each level over ``channels``, finest first; each but the first doubles the resolution.
        num_res_blocks: Residual blocks a level, one less than the decoder has.
        attention_at: Levels with attention, as ``ConvDecoder`` has them.
        num_groups: As ``ConvDecoder``.
        refine: Applied to both inputs first, with the same weights: ``StillConvs``.

    Shapes:
        quantized (B, h, w, dim), code (B, h, w, code_dim) -> image (B, 3, h * factor, w * factor),
        factor = 2^(len(multipliers) - 1).

    Raises:
        ValueError: no multipliers, an attention level that does not exist, or a ``refine`` where dims differ.
    """

    modulated = True

    def __init__(
        self,
        dim: int,
        code_dim: int,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 4),
        num_res_blocks: int = 2,
        attention_at: Sequence[int] = (3,),
        num_groups: int | None = None,
        refine: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if refine is not None and dim != code_dim:
            raise ValueError(
                f"refine acts on both inputs, whose channels differ: dim is {dim}, code_dim {code_dim}"
            )
        self.dim, self.code_dim, self.patch = dim, code_dim, 1
        self.refine = refine
        self._build(
            [channels * multiplier for multiplier in multipliers],
            num_res_blocks,
            attention_at,
            partial(ModulatedNorm, code_dim=code_dim, num_groups=num_groups),
        )

    def forward(self, quantized: Tensor, code: Tensor) -> Tensor:  # type: ignore[override]
        """Decodes."""
        if self.refine is not None:
            quantized, code = self.refine(quantized), self.refine(code)
        x, code = (
            part.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
            for part in (quantized, code)
        )
        x = self.conv_in(x)
        for block in self.middle:
            x = block(x, code)
        for level in self.levels:
            assert isinstance(level, nn.Sequential)
            for block in level:
                x = block(x, code) if isinstance(block, (ResBlock, AttentionBlock)) else block(x)
        return self.conv_out(F.silu(self.norm_out(x, code)))  # type: ignore[no-any-return]


class ModulatedNorm(nn.Module):
    """Group normalisation of (B, C, H, W), then a scale and a shift of each element that a code (B, D, h, w) decides."""

    def __init__(self, channels: int, code_dim: int, num_groups: int | None = None) -> None:
        super().__init__()
        self.norm = group_norm(channels, num_groups)
        self.scale = nn.Conv2d(code_dim, channels, 1)
        self.shift = nn.Conv2d(code_dim, channels, 1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Normalises and modulates."""
        # 1x1 convolutions and nearest neighbours commute: the convolutions run at the token grid's size
        scale, shift = (F.interpolate(part(code), size=x.shape[-2:]) for part in (self.scale, self.shift))
        return self.norm(x) * scale + shift  # type: ignore[no-any-return]


class StillConvs(Recorded, nn.Module):
    """The causal convolutions in time of a video tokenizer as they act on one still image: exact, and 2-D.

    A video tokenizer that downsamples time by 4 sees a still image as four equal frames, and its convolutions pad
    time with zeros in front. So the first of its strided convolutions gives two frames that differ, the second one
    frame; with frames as channels both are 2-D convolutions. Of the decoder's output only the first frame is the image,
    which never sees but the last tap of a causal kernel. Batch normalisation acts as it does in evaluation: a scale
    and a shift a channel.

    Source: Wang et al., Emu3 (2024), arXiv:2409.18869, section 2.2 (its tokenizer; the folding is ours).

    Args:
        dim_in: C, channels of every frame.
        frames: Frames after each convolution; the last is 1. ``(2, 1)`` is the encoder of a tokenizer with time factor 4,
            ``(1, 1)`` its decoder.
        num_res_blocks: Residual blocks of two convolutions.
        res_first: Residual blocks before the convolutions, as decoders have them, instead of after.
        dim_out: Channels that a last linear layer maps to; None for none.

    Shapes:
        x (B, h, w, dim_in) -> (B, h, w, dim_out or dim_in).

    Raises:
        ValueError: more than one frame is left.
    """

    def __init__(
        self,
        dim_in: int,
        frames: Sequence[int] = (2, 1),
        num_res_blocks: int = 2,
        res_first: bool = False,
        dim_out: int | None = None,
    ) -> None:
        super().__init__()
        if not frames or min(frames) < 1 or frames[-1] != 1:
            raise ValueError(f"frames are counts that end with 1, as (2, 1), not {tuple(frames)}")
        self.dim_in, self.dim_out = dim_in, dim_in if dim_out is None else dim_out
        self.res_first = res_first
        self.convs = nn.ModuleList(
            nn.Conv2d(dim_in * before, dim_in * after, 3, padding=1)
            for before, after in zip([1, *frames], frames, strict=False)
        )
        self.blocks = nn.Sequential(*(AffineResBlock(dim_in) for _ in range(num_res_blocks)))
        self.project: nn.Module = nn.Identity() if dim_out is None else nn.Linear(dim_in, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """Refines vectors on a grid."""
        x = x.permute(0, 3, 1, 2)
        if self.res_first:
            x = self.blocks(x)
        for conv in self.convs:
            x = F.silu(conv(x))
        if not self.res_first:
            x = self.blocks(x)
        return self.project(x.permute(0, 2, 3, 1)).contiguous()  # type: ignore[no-any-return]


class AffineResBlock(nn.Module):
    """A residual block (B, C, H, W) to the same shape, with a scale and a shift a channel for normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = Affine(channels), Affine(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Adds the residual."""
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(y)))  # type: ignore[no-any-return]


class Affine(nn.Module):
    """A scale and a shift for each channel of (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Scales and shifts."""
        return x * self.weight[:, None, None] + self.bias[:, None, None]
