"""The discriminator of StyleGAN2: one logit for a whole image."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from vistok.errors import RecipeError

SMALLEST = 4


class StyleDiscriminator(nn.Module):
    """Residual blocks with blurred downsampling to 4 x 4, then one logit per image; high means real.

    The defaults are StyleGAN2's at 256 pixels, as BSQ-ViT and MaskGIT's tokenizer train with. Deviation: without the
    standard deviation over a minibatch as a further channel, which would let each image's logit depend on the others in its
    batch and on how many processes share it.

    Source: Karras et al., Analyzing and Improving the Image Quality of StyleGAN (2019), arXiv:1912.04958, section 4.1 and
    appendix B; learning rates equalised as in Karras et al. (2017), arXiv:1710.10196, section 4.1.

    Args:
        size: Side of the images in pixels, 4 times a power of two.
        channels: Width at full resolution; it doubles per halving up to ``max_channels``.
        max_channels: Largest width.

    Shapes:
        image (B, 3, size, size) in [-1, 1] -> logits (B, 1).

    Raises:
        RecipeError: a size that is no such number, or images of another size.
    """

    def __init__(self, size: int = 256, channels: int = 128, max_channels: int = 512) -> None:
        super().__init__()
        halvings = int(math.log2(size / SMALLEST)) if size >= SMALLEST else -1
        if halvings < 1 or size != SMALLEST * 2**halvings:
            raise RecipeError(
                f"a StyleDiscriminator of size={size} cannot be built: give 8, 16, 32, 64, 128, 256 ..."
            )
        self.size = size
        widths = [min(channels * 2**level, max_channels) for level in range(halvings + 1)]
        self.first = _Conv(3, widths[0], 1)
        self.blocks = nn.Sequential(
            *(_Block(width_in, width_out) for width_in, width_out in pairwise(widths))
        )
        self.last = _Conv(widths[-1], widths[-1], 3)
        self.hidden = _Linear(widths[-1] * SMALLEST**2, widths[-1])
        self.logit = _Linear(widths[-1], 1)

    def forward(self, image: Tensor) -> Tensor:
        """One logit per image."""
        if image.shape[-2:] != (self.size, self.size):
            raise RecipeError(
                f"images of {image.shape[-2]} x {image.shape[-1]} pixels do not fit this discriminator: "
                f"set its size, which is {self.size}, to that of the crops"
            )
        x = self.blocks(_activate(self.first(image)))
        x = _activate(self.hidden(_activate(self.last(x)).flatten(1)))
        logits: Tensor = self.logit(x)
        return logits


class _Block(nn.Module):
    """(B, C, H, W) to (B, C', H / 2, W / 2): two convolutions beside a blurred and halved skip."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = _Conv(channels_in, channels_in, 3)
        self.conv2 = _Conv(channels_in, channels_out, 3, halve=True)
        self.skip = _Conv(channels_in, channels_out, 1, halve=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = _activate(self.conv2(_activate(self.conv1(x))))
        return (y + self.skip(x)) / math.sqrt(2)  # type: ignore[no-any-return]


class _Conv(nn.Module):
    """A convolution whose weight is scaled at run time; with ``halve`` of stride 2 after a blur of [1 3 3 1]."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, halve: bool = False, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out)) if bias else None
        self.gain = 1 / math.sqrt(channels_in * kernel**2)
        self.halve, self.kernel = halve, kernel

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.gain
        if not self.halve:
            return functional.conv2d(x, weight, self.bias, padding=self.kernel // 2)
        if self.kernel == 1:  # where every second value is dropped, it need not be blurred either
            return functional.conv2d(_blur(x, 1, stride=2), weight, self.bias)
        return functional.conv2d(_blur(x, 2), weight, self.bias, stride=2)


class _Linear(nn.Module):
    """A linear layer whose weight is scaled at run time."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim_out, dim_in))
        self.bias = nn.Parameter(torch.zeros(dim_out))
        self.gain = 1 / math.sqrt(dim_in)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight * self.gain, self.bias)


def _blur(x: Tensor, padding: int, stride: int = 1) -> Tensor:
    taps = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4)
    return functional.conv2d(x, kernel, padding=padding, stride=stride, groups=x.shape[1])


def _activate(x: Tensor) -> Tensor:
    """Leaky ReLU, scaled to keep the variance."""
    return functional.leaky_relu(x, 0.2) * math.sqrt(2)
