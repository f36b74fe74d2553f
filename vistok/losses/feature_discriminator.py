"""A discriminator that looks at images through the features of a frozen network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from vistok.backbones.timm_encoder import TimmEncoder
from vistok.errors import RecipeError
from vistok.losses.frozen import Frozen


class FeatureDiscriminator(nn.Module):
    """Small heads on several layers of a frozen network, one logit a position and layer; high means real.

    With DINO as network it is the discriminator of StyleGAN-T that VAR's, UniTok's and SoftVQ's tokenizers train with. A
    head is a 1x1 convolution, a residual convolution along the raster of positions and a 1x1 convolution to the
    logit, all with spectral norm. The network is neither trained nor saved, see ``Frozen``. Deviation: group norm in place
    of a batch norm over eight images, which would let each image's logits depend on the others.

    Source: Sauer et al., StyleGAN-T (2023), arXiv:2301.09515, section 3.2, whose text conditioning is left out.

    Args:
        network: Any network of timm; of DINO's small ViT, say.
        layers: Which of its layers heads look at, none past the network's own; four of twelve by default.
        kernel_size: Of the residual convolution, odd; it wraps around.
        size: Side that images are resized to first, in pixels; None: as they are.

    Shapes:
        image (B, 3, H, W) in [-1, 1] -> logits (B, positions of all layers).

    Raises:
        RecipeError: no layers, one that the network does not have, an even kernel, or a size that its factor does not divide.
    """

    def __init__(
        self,
        network: TimmEncoder,
        layers: Sequence[int] = (2, 5, 8, 11),
        kernel_size: int = 9,
        size: int | None = None,
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise RecipeError(f"kernel_size is {kernel_size}: give an odd number")
        if (
            not layers
            or sorted(set(layers)) != list(layers)
            or min(layers) < 0
            or max(layers) > network.layer
        ):
            raise RecipeError(
                f"layers are {tuple(layers)}: name layers 0 to {network.layer} of the network, each once and in order"
            )
        if size is not None and (size < 1 or size % network.factor):
            raise RecipeError(f"size is {size}: the network takes multiples of {network.factor}")
        self.layers, self.size = tuple(layers), size
        self.features = Frozen(network)
        self.heads = nn.ModuleList(_head(network.layer_dims[layer], kernel_size) for layer in layers)

    def forward(self, image: Tensor) -> Tensor:
        """The logits of all heads, one after the other."""
        if self.size is not None and tuple(image.shape[-2:]) != (self.size, self.size):
            image = functional.interpolate(
                image, (self.size, self.size), mode="bicubic", antialias=True, align_corners=False
            )
        network = self.features.network
        assert isinstance(network, TimmEncoder)
        maps = network.intermediates(image, self.layers)
        return torch.cat(
            [
                head(features.flatten(1, 2).mT).flatten(1)
                for head, features in zip(self.heads, maps, strict=True)
            ],
            dim=1,
        )


class _Residual(nn.Module):
    """Adds what a block says, scaled to keep the variance."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.block(x)) / math.sqrt(2)  # type: ignore[no-any-return]


def _head(channels: int, kernel_size: int) -> nn.Sequential:
    """(B, C, L) to logits (B, 1, L)."""
    return nn.Sequential(
        _block(channels, 1),
        _Residual(_block(channels, kernel_size)),
        spectral_norm(nn.Conv1d(channels, 1, 1)),
    )


def _block(channels: int, kernel_size: int) -> nn.Sequential:
    conv = nn.Conv1d(channels, channels, kernel_size, padding=kernel_size // 2, padding_mode="circular")
    return nn.Sequential(
        spectral_norm(conv), nn.GroupNorm(math.gcd(32, channels), channels), nn.LeakyReLU(0.2)
    )
