"""Pixels folded into channels before a convolutional network, and unfolded after one."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Patching = Literal["space_to_channel", "haar"]


class Patcher(nn.Module):
    """Folds squares of pixels into channels; an orthonormal map, so lengths stay and ``inverse`` undoes it.

    ``space_to_channel`` only moves pixels. ``haar`` splits every 2 x 2 square into its mean, the differences of its rows
    and of its columns and that of its diagonals, log2(patch) times, each time all bands again.

    Source: the Haar transform of Agarwal et al., Cosmos World Foundation Model Platform (2025), arXiv:2501.03575,
    section 3. Deviation: each transform there is divided by 2 more, so that the first band is the mean of the pixels;
    here that band is ``patch`` times the mean.

    Args:
        patch: Side of the squares in pixels; a power of 2 for ``haar``; 1 leaves the image as it is.
        patching: How a square becomes channels.

    Shapes:
        image (B, C, H, W) -> (B, C * patch^2, H / patch, W / patch).

    Raises:
        ValueError: an unknown patching, or a patch that it cannot have.
    """

    def __init__(self, patch: int, patching: Patching = "space_to_channel") -> None:
        super().__init__()
        if patching not in ("space_to_channel", "haar"):
            raise ValueError(f'patching is "space_to_channel" or "haar", not {patching!r}')
        if patch < 1 or (patching == "haar" and patch & (patch - 1)):
            raise ValueError(f"patch {patch} does not go with {patching!r}: take 1, 2, 4 or 8")
        self.patch, self.patching = patch, patching
        self.num_transforms = patch.bit_length() - 1

    def forward(self, image: Tensor) -> Tensor:
        """Folds."""
        if self.patching == "space_to_channel":
            return F.pixel_unshuffle(image, self.patch) if self.patch > 1 else image
        for _ in range(self.num_transforms):
            image = haar(image)
        return image

    def inverse(self, x: Tensor) -> Tensor:
        """Unfolds: (B, C * patch^2, h, w) to (B, C, h * patch, w * patch)."""
        if self.patching == "space_to_channel":
            return F.pixel_shuffle(x, self.patch) if self.patch > 1 else x
        for _ in range(self.num_transforms):
            x = inverse_haar(x)
        return x

    def extra_repr(self) -> str:
        """The arguments."""
        return f"patch={self.patch}, patching={self.patching!r}"


def haar(x: Tensor) -> Tensor:
    """One orthonormal Haar transform, band after band: (B, C, H, W) to (B, 4 C, H / 2, W / 2)."""
    batch, channels, height, width = x.shape
    squares = F.pixel_unshuffle(x, 2).reshape(batch, channels, 4, height // 2, width // 2)
    return torch.cat(_butterfly(*squares.unbind(2)), dim=1)


def inverse_haar(x: Tensor) -> Tensor:
    """Undoes ``haar``: (B, 4 C, h, w) to (B, C, 2 h, 2 w)."""
    squares = torch.stack(_butterfly(*x.chunk(4, dim=1)), dim=2)
    return F.pixel_shuffle(squares.flatten(1, 2), 2)


def _butterfly(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # Of the square a b / c d. The matrix is symmetric and orthogonal, so it is its own inverse.
    top, bottom, left, right = a + b, c + d, a - b, c - d
    return (top + bottom) / 2, (top - bottom) / 2, (left + right) / 2, (left - right) / 2
