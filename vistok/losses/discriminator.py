"""The PatchGAN discriminator: real or reconstructed, judged patch by patch."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from vistok.errors import RecipeError

Norm = Literal["group", "batch", "none"]


class PatchDiscriminator(nn.Module):
    """Gives one logit per overlapping patch (70 x 70 pixels at three layers); high means real.

    Deviation from the source: group norm by default, because batch norm would let each image's logits depend on
    the others in its batch and on how many processes share it. ``norm="batch"`` gives the published network.

    Source: Isola et al., Image-to-Image Translation with Conditional Adversarial Networks (2016), arXiv:1611.07004,
    appendix 6.1.2, with the initialisation that taming-transformers uses: Esser et al. (2020), arXiv:2012.09841.

    Args:
        channels: Width of the first layer; it doubles per layer up to eight times.
        num_layers: Layers of stride 2.
        norm: Normalisation between the first layer and the last.
        dim_in: Image channels.

    Shapes:
        image (B, dim_in, H, W) in [-1, 1] -> logits (B, 1, H / 2^num_layers - 2, W / 2^num_layers - 2).

    Raises:
        RecipeError: an unknown norm, or images too small for the depth.
    """

    def __init__(
        self, channels: int = 64, num_layers: int = 3, norm: Norm = "group", dim_in: int = 3
    ) -> None:
        super().__init__()
        if norm not in ("group", "batch", "none"):
            raise RecipeError(f"discriminator norm {norm!r} is unknown: choose group, batch or none")
        if num_layers < 1:
            raise RecipeError(f"a discriminator of num_layers={num_layers} cannot be built: give at least 1")
        self.smallest_side = 3 * 2**num_layers
        layers: list[nn.Module] = [nn.Conv2d(dim_in, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = channels
        for layer in range(1, num_layers + 1):
            previous, width = width, channels * min(2**layer, 8)
            stride = 2 if layer < num_layers else 1
            layers += [
                nn.Conv2d(previous, width, 4, stride=stride, padding=1, bias=norm != "batch"),
                _norm(norm, width),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(width, 1, 4, stride=1, padding=1))
        self.layers = nn.Sequential(*layers)
        self.layers.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        """One logit per patch."""
        if min(image.shape[-2:]) < self.smallest_side:
            raise RecipeError(
                f"images of {image.shape[-2]} x {image.shape[-1]} pixels are too small for this discriminator, which needs "
                f"{self.smallest_side}: lower its num_layers"
            )
        logits: Tensor = self.layers(image)
        return logits


def _norm(norm: Norm, width: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(width)
    return nn.GroupNorm(math.gcd(32, width), width) if norm == "group" else nn.Identity()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
