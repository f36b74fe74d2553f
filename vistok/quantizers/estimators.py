"""How a gradient passes a choice that has none."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vistok.recorded import Recorded
from vistok_kernels import index_softmax

_SHORT = 1e-6


def straight_through(latent: Tensor, code: Tensor) -> Tensor:
    """The code's value with the latent's gradient.

    Source: Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons (2013), arXiv:1308.3432.
    """
    # in this order the value is the code itself, without rounding
    return code + (latent - latent.detach())


def rotation_trick(latent: Tensor, code: Tensor) -> Tensor:
    """The code's value; the gradient is rotated and scaled as the latent was to become the code.

    Shapes:
        latent (..., D), code (..., D) -> (..., D).

    Source: Fifty et al., Restructuring Vector Quantization with the Rotation Trick (2024), arXiv:2410.06424, section 4.
    """
    with_gradient = latent
    latent, code = latent.detach(), code.detach()
    length = latent.norm(dim=-1, keepdim=True)
    source, target = F.normalize(latent, dim=-1), F.normalize(code, dim=-1)
    scale = code.norm(dim=-1, keepdim=True) / length.clamp(min=_SHORT)
    sum_of_directions = source + target
    middle = F.normalize(sum_of_directions, dim=-1)
    reflected = with_gradient - 2 * (with_gradient * middle).sum(-1, keepdim=True) * middle
    rotated = reflected + 2 * (with_gradient * source).sum(-1, keepdim=True) * target
    # no rotation is defined for a latent without direction or against the code: the plain estimator serves those
    defined = (length > _SHORT) & (sum_of_directions.norm(dim=-1, keepdim=True) > _SHORT)
    turned = torch.where(defined, scale * rotated, with_gradient)
    return code + (turned - turned.detach())


class IndexSoftmax(Recorded):
    """The nearest code's value, with a gradient to every code through its softmax weight and to the chosen one by value.

    The weights are the softmax over the codebook of ``scale`` times the score, which is the dot product, the cosine or
    the negated squared distance. Neither pass holds the N x K weights.

    Source: Shi et al., Scalable Image Tokenization with Index Backpropagation Quantization (2024), arXiv:2412.02692,
    section 3.2, where the score is the dot product and the scale 1.

    Args:
        scale: Factor of the scores, above 0: the inverse temperature.
    """

    def __init__(self, scale: float = 1.0) -> None:
        if not scale > 0:
            raise ValueError(f"scale must be above 0, it is {scale}")
        self.scale = scale

    def __call__(self, latents: Tensor, codebook: Tensor, metric: str) -> tuple[Tensor, Tensor]:
        """Latents (N, D) and all codes (K, D) -> values (N, D), indices (N,)."""
        values, indices = index_softmax(latents, codebook, self.scale, metric)
        return values, indices
