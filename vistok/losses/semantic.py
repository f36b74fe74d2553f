"""The semantic loss: predicted features against those of a frozen teacher."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from vistok.backbones.base import Encoder
from vistok.errors import RecipeError
from vistok.losses.frozen import Frozen
from vistok.losses.term import Batch, Term, features_of
from vistok.tokenizer import Reconstruction

Distance = Literal["cosine", "l1", "l2"]


class Teacher(Frozen, Term):
    """A frozen network whose features a term compares with those that the feature head predicts.

    The teacher is neither trained nor saved, see ``Frozen``. Where its grid differs from the predicted one, its features
    are brought to the predicted grid; see ``resize_grid`` and ``resize_sequence``.

    Args:
        teacher: Any encoder, usually a ``TimmEncoder``.
        size: Side in pixels that images are resized to for it, bicubic and antialiased: 224 of a tokenizer's 256, say,
            so that a teacher of patches of 14 gives the grid of factor 16. None: as they are.

    Raises:
        RecipeError: a size that the teacher's factor does not divide.
    """

    def __init__(self, teacher: Encoder, size: int | None = None) -> None:
        super().__init__(teacher)
        if size is not None and (size < 1 or size % teacher.factor):
            raise RecipeError(f"size is {size}: the teacher takes multiples of {teacher.factor}")
        self.size = size

    def forward(self, image: Tensor, features: Tensor) -> Tensor:
        """The loss of a batch; gradients reach the predicted features.

        Shapes:
            image (B, 3, H, W) in [-1, 1], features (B, h, w, D) or (B, N, D) -> scalar.

        Raises:
            RecipeError: features whose D is not the teacher's.
        """
        target = self.target(image, tuple(features.shape[1:-1]))
        if target.shape[-1] != features.shape[-1]:
            raise RecipeError(
                f"the feature head predicts {features.shape[-1]} channels but the teacher has {target.shape[-1]}: "
                f"set the head's dim_out to {target.shape[-1]}"
            )
        with torch.autocast(features.device.type, enabled=False):
            return self.compare(features.float(), target)

    def compare(self, features: Tensor, target: Tensor) -> Tensor:
        """The loss, of float32 features of one shape (B, ..., D)."""
        raise NotImplementedError

    def measure(self, batch: Batch, output: Reconstruction) -> Tensor:
        """Predicted features against the teacher's."""
        loss: Tensor = self(batch["image"], features_of(output, type(self).__name__))
        return loss

    @torch.no_grad()
    def target(self, image: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The teacher's features on a token grid: image (B, 3, H, W) -> (B, *grid, D) in float32."""
        if self.size is not None and tuple(image.shape[-2:]) != (self.size, self.size):
            image = functional.interpolate(
                image, (self.size, self.size), mode="bicubic", antialias=True, align_corners=False
            ).clamp(-1, 1)
        features: Tensor = self.network(image).float()
        if len(grid) == 1:
            return resize_sequence(features.flatten(1, -2), grid[0])
        return resize_grid(features, (grid[0], grid[1]))


class Semantic(Teacher):
    """Distance between features that a tokenizer predicts and those that a teacher sees in the image.

    With ``cosine`` and an MLP as feature head it is the alignment of REPA and SoftVQ-VAE, up to a constant.

    Source: the cosine form is the reconstruction objective of Peng et al., BEiT v2 (2022), arXiv:2208.06366,
    section 2.2; the squared form that of Qu et al., TokenFlow (2024), arXiv:2412.03069; the alignment Yu et al.,
    Representation Alignment for Generation (2024), arXiv:2410.06940, equation 8, there with a minus sign in place of
    1 minus.

    Args:
        teacher: Any encoder, usually a ``TimmEncoder``.
        distance: ``cosine`` is 1 minus the cosine, in [0, 2], averaged over positions; ``l1`` and ``l2`` the absolute
            and the squared difference averaged over positions and channels.
        size: See ``Teacher``.

    Shapes:
        image (B, 3, H, W) in [-1, 1], features (B, h, w, D) or (B, N, D) -> scalar.

    Raises:
        RecipeError: another distance, or features whose D is not the teacher's.
    """

    def __init__(self, teacher: Encoder, distance: Distance = "cosine", size: int | None = None) -> None:
        super().__init__(teacher, size)
        if distance not in ("cosine", "l1", "l2"):
            raise RecipeError(f"semantic distance {distance!r} is unknown: choose cosine, l1 or l2")
        self.distance = distance

    def compare(self, features: Tensor, target: Tensor) -> Tensor:
        """The distance."""
        if self.distance == "l1":
            return (features - target).abs().mean()
        if self.distance == "l2":
            return (features - target).square().mean()
        return 1 - functional.cosine_similarity(features, target, dim=-1).mean()

    def extra_repr(self) -> str:
        """The distance."""
        return f"distance={self.distance!r}"


def resize_grid(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Features on another grid: (B, h, w, D) -> (B, *grid, D), averaged if no side grows, else bilinear."""
    height, width = features.shape[1], features.shape[2]
    if (height, width) == grid:
        return features
    channels_first = features.movedim(-1, 1)
    if grid[0] <= height and grid[1] <= width:
        resized = functional.adaptive_avg_pool2d(channels_first, grid)
    else:
        resized = functional.interpolate(channels_first, grid, mode="bilinear", align_corners=False)
    return resized.movedim(1, -1)


def resize_sequence(features: Tensor, length: int) -> Tensor:
    """Features of another number of positions: (B, M, D) -> (B, length, D), averaged if fewer, else repeated."""
    if features.shape[1] == length:
        return features
    channels_first = features.movedim(-1, 1)
    if length < features.shape[1]:
        resized = functional.adaptive_avg_pool1d(channels_first, length)
    else:
        resized = functional.interpolate(channels_first, length, mode="nearest")
    return resized.movedim(1, -1)
