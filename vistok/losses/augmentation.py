"""Differentiable augmentation: what a discriminator sees is changed at random, and gradients flow through the change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from vistok.errors import RecipeError

Policy = Literal["color", "translation", "cutout"]
SHIFT, CUTOUT = 0.125, 0.5


class Augmentation(nn.Module):
    """DiffAugment: brightness, saturation and contrast; a shift; a square cut out.

    Every image has random numbers of its own, drawn with the batch as first dimension, so that the training's draws
    are those of one process at any number of processes.

    Source: Zhao et al., Differentiable Augmentation for Data-Efficient GAN Training (2020), arXiv:2006.10738, section
    3.2, with the published strengths: brightness -0.5 to 0.5, saturation times 0 to 2, contrast times 0.5 to 1.5, shifts by
    up to an eighth of a side filled with 0, a square of half a side set to 0.

    Args:
        policies: Which of ``color``, ``translation``, ``cutout``, in their order.
        probability: That an image is changed at all, in [0, 1].

    Shapes:
        image (B, 3, H, W) in [-1, 1] -> the same; colours may leave the range.

    Raises:
        RecipeError: an unknown policy, or a probability out of its range.
    """

    def __init__(
        self, policies: Sequence[Policy] = ("color", "translation", "cutout"), probability: float = 1.0
    ) -> None:
        super().__init__()
        wrong = [name for name in policies if name not in _CHANGES]
        if wrong:
            raise RecipeError(f"augmentation {wrong[0]!r} is unknown: choose among {', '.join(_CHANGES)}")
        if not 0 <= probability <= 1:
            raise RecipeError(f"the probability of augmentation is {probability}: give a number in [0, 1]")
        self.policies, self.probability = tuple(policies), probability

    def forward(self, image: Tensor) -> Tensor:
        """Changes each image in its own way."""
        changed = image
        for name in self.policies:
            changed = _CHANGES[name](changed)
        if self.probability < 1:
            changed = torch.where(_draw(image) < self.probability, changed, image)
        return changed

    def extra_repr(self) -> str:
        """The policies."""
        return f"policies={self.policies}, probability={self.probability}"


def color(image: Tensor) -> Tensor:
    """Random brightness, saturation and contrast."""
    image = image + (_draw(image) - 0.5)
    grey = image.mean(1, keepdim=True)
    image = (image - grey) * (2 * _draw(image)) + grey
    mean = image.mean((1, 2, 3), keepdim=True)
    return (image - mean) * (_draw(image) + 0.5) + mean


def translation(image: Tensor) -> Tensor:
    """A random shift by up to an eighth of each side; what comes in from outside is 0."""
    height, width = image.shape[-2:]
    rows = torch.arange(height, device=image.device).view(1, 1, -1, 1) - _steps(image, height, SHIFT)
    columns = torch.arange(width, device=image.device).view(1, 1, 1, -1) - _steps(image, width, SHIFT)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    moved = image.gather(2, rows.clamp(0, height - 1).expand(-1, image.shape[1], -1, width))
    moved = moved.gather(3, columns.clamp(0, width - 1).expand(-1, image.shape[1], height, -1))
    return moved * inside


def cutout(image: Tensor) -> Tensor:
    """A square of half of each side, centred anywhere, set to 0."""
    sides = image.shape[-2:]
    inside: list[Tensor] = []
    for axis, side in enumerate(sides):
        length = round(side * CUTOUT)
        start = (_draw(image) * (side + 1 - length % 2)).floor() - length // 2
        positions = torch.arange(side, device=image.device).view(
            (1, 1, -1, 1) if axis == 0 else (1, 1, 1, -1)
        )
        inside.append((positions >= start) & (positions < start + length))
    return image * ~(inside[0] & inside[1])


_CHANGES = {"color": color, "translation": translation, "cutout": cutout}


def _draw(image: Tensor) -> Tensor:
    """One number in [0, 1) for each image, (B, 1, 1, 1)."""
    return torch.rand((image.shape[0], 1, 1, 1), device=image.device)


def _steps(image: Tensor, side: int, share: float) -> Tensor:
    """One whole number of pixels in [-share * side, share * side] for each image, (B, 1, 1, 1)."""
    most = round(side * share)
    return (_draw(image) * (2 * most + 1)).floor().long() - most
