"""Pixel losses: how far a reconstruction is from its image, value by value."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from vistok.losses.term import Batch, Term, pixels_of
from vistok.tokenizer import Reconstruction


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


class Pixels(Term):
    """One of the two as a term.

    Args:
        distance: ``l1`` or ``l2``, the functions above.
    """

    compares_pixels = True

    def __init__(self, distance: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.distance = distance

    def measure(self, batch: Batch, output: Reconstruction) -> Tensor:
        """Image against reconstruction."""
        return self.distance(batch["image"], pixels_of(output, self.distance.__name__))
