"""How far the reconstructions as a set are from the images as a set, in the features of EfficientNet-Lite0."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vistok.backbones.weights import lite0
from vistok.evaluation.frechet import FeatureStatistics, frechet_distance, kernel_distance

TILE = 64
MAX_KERNEL_SAMPLES = 10_000


class DistributionDistance:
    """Frechet and kernel distance between image tiles and reconstructed tiles.

    Whole images would be too few for a small set, so each gives all its non-overlapping tiles of 64 x 64 pixels, from the
    top left. Features are EfficientNet-Lite0's after its last activation, averaged over positions: 1280 numbers. The values are
    not FID or KID, which need Inception, and must not be called so.

    Args:
        device: Where the network runs.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        network: Any = lite0().to(device)
        self.network, self.dim = network, int(network.num_features)
        self.reference, self.reconstruction = FeatureStatistics(self.dim), FeatureStatistics(self.dim)
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._num_kept = 0

    @property
    def num_samples(self) -> int:
        """Tiles seen so far."""
        return self.reference.num_samples

    @property
    def frechet_is_reliable(self) -> bool:
        """Whether there are at least two samples per dimension."""
        return self.num_samples >= 2 * self.dim

    @torch.no_grad()
    def update(self, image: Tensor, reconstruction: Tensor) -> None:
        """Adds the tiles of a batch; images smaller than a tile add none.

        Shapes:
            image, reconstruction (B, 3, H, W) in [-1, 1].
        """
        for a, b in zip(torch.split(tiles(image), 256), torch.split(tiles(reconstruction), 256), strict=True):
            features = self._features(a), self._features(b)
            self.reference.update(features[0])
            self.reconstruction.update(features[1])
            if self._num_kept < MAX_KERNEL_SAMPLES:
                self._kept.append(features)
                self._num_kept += len(a)

    def frechet(self) -> float:
        """``fd_efflite0``, at least 0."""
        return frechet_distance(self.reference, self.reconstruction)

    def kernel(self) -> float:
        """``kd_efflite0`` over the first 10,000 tiles; near 0 for equal distributions, and then of either sign."""
        reference, reconstruction = (
            torch.cat(part)[:MAX_KERNEL_SAMPLES] for part in zip(*self._kept, strict=True)
        )
        return kernel_distance(reference, reconstruction)

    def _features(self, image: Tensor) -> Tensor:
        network: Any = self.network
        features: Tensor = network.forward_head(network.forward_features(image), pre_logits=True)
        return features.cpu()


def tiles(image: Tensor, side: int = TILE) -> Tensor:
    """Non-overlapping tiles from the top left: (B, C, H, W) -> (B * floor(H / side) * floor(W / side), C, side, side)."""
    rows, columns = image.shape[-2] // side, image.shape[-1] // side
    cut = image[..., : rows * side, : columns * side].reshape(*image.shape[:2], rows, side, columns, side)
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
