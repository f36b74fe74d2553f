"""Pixel losses: how far a reconstruction is from its image, value by value."""

from __future__ import annotations

from torch import Tensor


def l1(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean absolute difference over all images, channels and pixels, in float32.

    Shapes:
        image, reconstruction (B, 3, H, W) in [-1, 1] -> scalar in [0, 2] for reconstructions inside the range.
    """
    return (image.float() - reconstruction.float()).abs().mean()


def l2(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean squared difference over all images, channels and pixels, in float32.

    Shapes:
        image, reconstruction (B, 3, H, W) in [-1, 1] -> scalar in [0, 4] for reconstructions inside the range.
    """
    return (image.float() - reconstruction.float()).square().mean()
