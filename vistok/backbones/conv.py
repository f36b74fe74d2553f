"""The convolutional autoencoder of VQGAN and LlamaGen, channels last throughout."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.backbones.base import Decoder, Encoder, require_multiple
from vistok.backbones.patching import Patcher, Patching


class ConvEncoder(Encoder):
    """Residual convolutions and strided downsampling: the encoder of VQGAN and LlamaGen.

    The defaults with ``dim=256, attention_at=(4,)`` are LlamaGen's VQ-16 (its VQ-8: ``multipliers=(1, 2, 2, 4)``,
    ``attention_at=(3,)``); Open-MAGVIT2's has four residual blocks a level and no attention.

    Source: Esser et al., Taming Transformers (2021), arXiv:2012.09841, section 3.1; Sun et al., LlamaGen (2024),
    arXiv:2406.06525, section 2.2. Deviations: ``patch``; fewer than 32 normalisation groups below 128 channels.

    Args:
        dim: Channels of the latent.
        channels: Channels at the finest level.
        multipliers: Channels of each level over ``channels``, finest first; each level but the last halves the
            resolution.
        num_res_blocks: Residual blocks of every level, or of each one.
        attention_at: Levels, 0 the finest, whose residual blocks are followed by self-attention. Any level puts
            attention in the middle block too, as VQGAN has it. The number ``len(multipliers)`` names the middle block,
            so that ``(len(multipliers),)`` is attention there alone, as Stable Diffusion has it. ``()`` is none at all.
        patch: Pixels folded into channels before the first convolution, along each axis: 2 or 4 is far faster than 1
            and costs fine detail.
        patching: How they are folded, see ``Patcher``; ``"haar"`` with a patch of 4 is Cosmos' way.
        num_groups: Groups of each normalisation; None is 32, or fewer below 128 channels.

    Shapes:
        image (B, 3, H, W) -> latent (B, H / factor, W / factor, dim), factor = patch * 2^(len(multipliers) - 1).

    Raises:
        ValueError: no multipliers, not as many numbers of blocks, or an attention level that does not exist.
        ImageError: H or W not a multiple of the factor.
    """

    def __init__(
        self,
        dim: int,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        num_res_blocks: int | Sequence[int] = 2,
        attention_at: Sequence[int] = (),
        patch: int = 1,
        patching: Patching = "space_to_channel",
        num_groups: int | None = None,
    ) -> None:
        super().__init__()
        _check_levels(multipliers, attention_at)
        num_blocks = _blocks_of_levels(num_res_blocks, len(multipliers))
        norm = partial(group_norm, num_groups=num_groups)
        self.dim, self.patch, self.patcher = dim, patch, Patcher(patch, patching)
        self.factor = patch * 2 ** (len(multipliers) - 1)
        self.conv_in = nn.Conv2d(3 * patch**2, channels, 3, padding=1)
        width = channels
        self.levels = nn.ModuleList()
        for level, multiplier in enumerate(multipliers):
            blocks = nn.Sequential()
            for _ in range(num_blocks[level]):
                blocks.append(ResBlock(width, channels * multiplier, norm))
                width = channels * multiplier
                if level in attention_at:
                    blocks.append(AttentionBlock(width, norm))
            if level < len(multipliers) - 1:
                blocks.append(Downsample(width))
            self.levels.append(blocks)
        self.middle = _middle(width, bool(attention_at), norm)
        self.norm_out = norm(width)
        self.conv_out = nn.Conv2d(width, dim, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Encodes; the latent is contiguous, since the convolutions keep channels innermost."""
        require_multiple(image, self.factor)
        x = self.conv_in(self.patcher(image).contiguous(memory_format=torch.channels_last))
        for level in self.levels:
            x = level(x)
        x = self.conv_out(F.silu(self.norm_out(self.middle(x))))
        return _channels_last(x)


class UpsamplingDecoder(Decoder):
    """The layers that convolutional decoders have in common, whatever they normalise with; they set ``dim`` and ``patch`` first."""

    patch: int

    def _build(
        self,
        widths: Sequence[int],
        num_res_blocks: int | Sequence[int],
        attention_at: Sequence[int],
        norm: Callable[[int], nn.Module],
    ) -> None:
        _check_levels(widths, attention_at)
        num_blocks = _blocks_of_levels(num_res_blocks, len(widths))
        self.factor = self.patch * 2 ** (len(widths) - 1)
        width = widths[-1]
        self.conv_in = nn.Conv2d(self.dim, width, 3, padding=1)
        self.middle = _middle(width, bool(attention_at), norm)
        self.levels = nn.ModuleList()
        for level in reversed(range(len(widths))):
            blocks = nn.Sequential()
            for _ in range(num_blocks[level] + 1):
                blocks.append(ResBlock(width, widths[level], norm))
                width = widths[level]
                if level in attention_at:
                    blocks.append(AttentionBlock(width, norm))
            if level > 0:
                blocks.append(Upsample(width))
            self.levels.append(blocks)
        self.norm_out = norm(width)
        self.conv_out = nn.Conv2d(width, 3 * self.patch**2, 3, padding=1)

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the last convolution."""
        return self.conv_out.get_parameter("weight")


class ConvDecoder(UpsamplingDecoder):
    """Residual convolutions and nearest-neighbour upsampling: the decoder of VQGAN and LlamaGen.

    The mirror of ``ConvEncoder`` and the same arguments, with one residual block more a level.

    Source: as ``ConvEncoder``.

    Args:
        dim: Channels of the quantized vectors.
        channels: Channels at the finest level.
        multipliers: As the encoder's, finest level first.
        num_res_blocks: Residual blocks of every level, or of each one, finest first; the decoder has one more of each.
        attention_at: As the encoder's.
        patch: Pixels unfolded from channels after the last convolution, along each axis.
        patching: As the encoder's.
        num_groups: As the encoder's.

    Shapes:
        quantized (B, h, w, dim) -> image (B, 3, h * factor, w * factor), factor = patch * 2^(len(multipliers) - 1).

    Raises:
        ValueError: no multipliers, not as many numbers of blocks, or an attention level that does not exist.
    """

    def __init__(
        self,
        dim: int,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        num_res_blocks: int | Sequence[int] = 2,
        attention_at: Sequence[int] = (),
        patch: int = 1,
        patching: Patching = "space_to_channel",
        num_groups: int | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.patch, self.patcher = dim, patch, Patcher(patch, patching)
        self._build(
            [channels * multiplier for multiplier in multipliers],
            num_res_blocks,
            attention_at,
            partial(group_norm, num_groups=num_groups),
        )

    def forward(self, quantized: Tensor) -> Tensor:
        """Decodes."""
        # the permuted view of a contiguous (B, h, w, D) is channels_last already: nothing is copied
        x = quantized.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        x = self.middle(self.conv_in(x))
        for level in self.levels:
            x = level(x)
        x = self.conv_out(F.silu(self.norm_out(x)))
        return self.patcher.inverse(x)


class ResBlock(nn.Module):
    """Two normalised 3x3 convolutions around a skip: (B, C, H, W) to (B, C', H, W).

    Args:
        channels_in: C.
        channels_out: C'.
        norm: Makes a normalisation of that many channels; one that is modulated takes the code besides.
    """

    def __init__(
        self, channels_in: int, channels_out: int, norm: Callable[[int], nn.Module] | None = None
    ) -> None:
        super().__init__()
        norm = norm or group_norm
        self.norm1 = norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.skip = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, *code: Tensor) -> Tensor:
        """Adds the residual."""
        y = self.conv1(F.silu(self.norm1(x, *code)))
        y = self.conv2(F.silu(self.norm2(y, *code)))
        return self.skip(x) + y  # type: ignore[no-any-return]


class AttentionBlock(nn.Module):
    """Single-head self-attention over all positions of a map (B, C, H, W), with a skip; ``norm`` as ``ResBlock`` has it."""

    def __init__(self, channels: int, norm: Callable[[int], nn.Module] | None = None) -> None:
        super().__init__()
        self.norm = (norm or group_norm)(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, *code: Tensor) -> Tensor:
        """Adds what the other positions say."""
        batch, channels, height, width = x.shape
        tokens = _channels_last(self.norm(x, *code)).reshape(batch, 1, height * width, channels)
        query, key, value = self.qkv(tokens).chunk(3, dim=-1)
        attended = self.out(F.scaled_dot_product_attention(query, key, value))
        return x + attended.reshape(batch, height, width, channels).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class Downsample(nn.Module):
    """Halves the resolution: a 3x3 convolution of stride 2, padded at the right and the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H / 2, W / 2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Doubles the resolution: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 2H, 2W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]


def group_norm(channels: int, num_groups: int | None = None) -> nn.GroupNorm:
    """VQGAN's 32 groups, or as many fewer as leave four channels a group: one channel a group would erase contrast.

    Raises:
        ValueError: a number of groups that does not divide the channels.
    """
    if num_groups is not None and (num_groups < 1 or channels % num_groups):
        raise ValueError(f"num_groups is {num_groups}, it must divide {channels} channels")
    groups = math.gcd(32, channels) if num_groups is None else num_groups
    while num_groups is None and groups > 1 and channels < 4 * groups:
        groups //= 2
    return nn.GroupNorm(groups, channels, eps=1e-6)


def _middle(width: int, attention: bool, norm: Callable[[int], nn.Module]) -> nn.Sequential:
    blocks: list[nn.Module] = [ResBlock(width, width, norm), ResBlock(width, width, norm)]
    if attention:
        blocks.insert(1, AttentionBlock(width, norm))
    return nn.Sequential(*blocks)


def _channels_last(x: Tensor) -> Tensor:
    """(B, C, H, W) to a contiguous (B, H, W, C), without a copy if x is in torch.channels_last already."""
    return x.permute(0, 2, 3, 1).contiguous()


def _blocks_of_levels(num_res_blocks: int | Sequence[int], num_levels: int) -> Sequence[int]:
    if isinstance(num_res_blocks, int):
        return [num_res_blocks] * num_levels
    if len(num_res_blocks) != num_levels:
        raise ValueError(f"num_res_blocks has {len(num_res_blocks)} numbers for {num_levels} multipliers")
    return num_res_blocks


def _check_levels(multipliers: Sequence[int], attention_at: Sequence[int]) -> None:
    if not multipliers or min(multipliers) < 1:
        raise ValueError(f"multipliers are positive and at least one, not {tuple(multipliers)}")
    wrong = [level for level in attention_at if not 0 <= level <= len(multipliers)]
    if wrong:
        raise ValueError(
            f"attention_at names level {wrong[0]}; the levels are 0 to {len(multipliers) - 1}, "
            f"and {len(multipliers)} is the middle block"
        )
