"""The semantic loss: predicted features against those of a frozen teacher."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from vistok.backbones.base import Encoder
from vistok.errors import RecipeError
from vistok.losses.frozen import Frozen


class Semantic(Frozen):
    """Distance between features that a tokenizer predicts and those that a teacher sees in the image.

    The teacher is neither trained nor saved, see ``Frozen``. Where its grid differs from the predicted one, its features
    are brought to the predicted grid: averaged where that is coarser, interpolated bilinearly where it is finer.

    Source: the cosine form is the reconstruction objective of Peng et al., BEiT v2 (2022), arXiv:2208.06366,
    section 2.2; the squared form that of Qu et al., TokenFlow (2024), arXiv:2412.03069.

    Args:
        teacher: Any encoder, usually a ``TimmEncoder``.
        distance: ``cosine`` is 1 minus the cosine, in [0, 2], averaged over positions; ``l2`` the squared
            difference averaged over positions and channels.

    Shapes:
        image (B, 3, H, W) in [-1, 1], features (B, h, w, D) -> scalar.

    Raises:
        RecipeError: another distance, or features whose D is not the teacher's.
    """

    def __init__(self, teacher: Encoder, distance: Literal["cosine", "l2"] = "cosine") -> None:
        super().__init__(teacher)
        if distance not in ("cosine", "l2"):
            raise RecipeError(f"semantic distance {distance!r} is unknown: choose cosine or l2")
        self.distance = distance

    def forward(self, image: Tensor, features: Tensor) -> Tensor:
        """The loss of a batch; gradients reach the predicted features."""
        target = self.target(image, (features.shape[1], features.shape[2]))
        if target.shape[-1] != features.shape[-1]:
            raise RecipeError(
                f"the feature head predicts {features.shape[-1]} channels but the teacher has {target.shape[-1]}: "
                f"set the head's dim_out to {target.shape[-1]}"
            )
        if self.distance == "l2":
            return (features.float() - target).square().mean()
        return 1 - functional.cosine_similarity(features.float(), target, dim=-1).mean()

    @torch.no_grad()
    def target(self, image: Tensor, grid: tuple[int, int]) -> Tensor:
        """The teacher's features on a token grid: image (B, 3, H, W) -> (B, *grid, D) in float32."""
        features: Tensor = self.network(image).float()
        return resize_grid(features, grid)

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
