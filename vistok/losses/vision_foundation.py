"""The VF loss of VA-VAE: latents are held near a vision foundation model's features, but only so near."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from vistok.backbones.base import Encoder
from vistok.errors import RecipeError
from vistok.losses.semantic import Teacher


class VisionFoundation(Teacher):
    """Marginal cosine similarity loss plus marginal distance matrix similarity loss.

    The first asks each position's cosine to the teacher's feature to reach ``1 - cosine_margin``; the second asks the
    cosines between all positions of an image to differ from the teacher's by at most ``distance_margin``. Both are 0
    once that holds, which leaves the latents free to reconstruct. Both are read from the feature head's output: a linear
    head over the latents is the published ``reverse_proj``.

    Source: Yao et al., Reconstruction vs. Generation: Taming Optimization Dilemma in Latent Diffusion Models (2025),
    arXiv:2501.01423, section 3.2, equations 3 to 7, whose weight hyper is the recipe's. Deviation: the adaptive weight
    is at most 1e4, there 1e8.

    Args:
        teacher: Any encoder, usually a ``TimmEncoder`` of DINOv2.
        cosine_margin: m1, in [0, 2].
        distance_margin: m2, in [0, 2].
        adaptive: Multiply the weight by ``adaptive_weight`` between the losses on pixels and this one.
        size: See ``Teacher``.

    Shapes:
        image (B, 3, H, W) in [-1, 1], features (B, h, w, D) or (B, N, D) -> scalar in [0, 4].

    Raises:
        RecipeError: a margin out of its range, or features whose D is not the teacher's.
    """

    def __init__(
        self,
        teacher: Encoder,
        cosine_margin: float = 0.5,
        distance_margin: float = 0.25,
        adaptive: bool = True,
        size: int | None = None,
    ) -> None:
        super().__init__(teacher, size)
        for name, margin in (("cosine_margin", cosine_margin), ("distance_margin", distance_margin)):
            if not 0 <= margin <= 2:
                raise RecipeError(f"{name} is {margin}: cosines differ by 0 to 2")
        self.cosine_margin, self.distance_margin = cosine_margin, distance_margin
        self.adaptive = adaptive

    def compare(self, features: Tensor, target: Tensor) -> Tensor:
        """The sum of both."""
        predicted = functional.normalize(features.flatten(1, -2), dim=-1)
        wanted = functional.normalize(target.flatten(1, -2), dim=-1)
        cosine = functional.relu(1 - self.cosine_margin - (predicted * wanted).sum(-1)).mean()
        differences = predicted @ predicted.mT - wanted @ wanted.mT
        return cosine + functional.relu(differences.abs() - self.distance_margin).mean()

    def extra_repr(self) -> str:
        """The margins."""
        return f"cosine_margin={self.cosine_margin}, distance_margin={self.distance_margin}, adaptive={self.adaptive}"
