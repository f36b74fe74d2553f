"""The perceptual loss: distance between an image and its reconstruction in the features of a frozen network."""

from __future__ import annotations

from torch import Tensor

from vistok.backbones.perceptual_distance import perceptual_distance
from vistok.losses.frozen import Frozen
from vistok.losses.term import Batch, Term, pixels_of
from vistok.tokenizer import Reconstruction


class Perceptual(Frozen, Term):
    """Mean perceptual distance of a batch.

    The network is neither trained nor saved, see ``Frozen``.

    Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric (2018),
    arXiv:1801.03924, section 3. Only the ``lpips`` backends have its learned layer weights; any other backend weighs its
    layers equally.

    Args:
        backend: ``lpips`` (VGG-16, as taming and LlamaGen train with), ``lpips-alex``, ``efficientnet-lite0`` (its
            weights come with a pip package, so it works offline), or the name of any timm model.

    Shapes:
        image, reconstruction (B, 3, H, W) in [-1, 1] -> scalar, 0 for equal images.

    Raises:
        RecipeError: an unknown backend, or weights that are neither on this machine nor downloadable.
    """

    compares_pixels = True

    def __init__(self, backend: str = "lpips") -> None:
        super().__init__(perceptual_distance(backend))
        self.backend = backend

    def forward(self, image: Tensor, reconstruction: Tensor) -> Tensor:
        """The loss of a batch; gradients reach the reconstruction."""
        distances: Tensor = self.network(image, reconstruction)
        return distances.mean()

    def measure(self, batch: Batch, output: Reconstruction) -> Tensor:
        """Image against reconstruction."""
        loss: Tensor = self(batch["image"], pixels_of(output, "perceptual"))
        return loss

    def extra_repr(self) -> str:
        """The backend."""
        return f"backend={self.backend!r}"
