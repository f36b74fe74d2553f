"""The codebook in the form in which a search reads it: O(K D) work, once a call."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vistok_kernels.checks import computing_dtype

# Past this many times the codebook's extent all codes are equally near at float32's precision, while products
# still stay far from float32's largest number.
FARTHEST = 1e18


class Prepared(NamedTuple):
    """A codebook moved and scaled such that ``half_norms - latent @ codes`` orders the codes by distance.

    Latents are to be moved alike: ``(latents - center) * scale``. ``scale`` is NaN where the codebook holds a NaN or
    Inf, so that every score and thus every row is marked bad without asking the device.

    Shapes:
        center (D,), scale (), codes (D, K), half_norms (K,); float32, center in the codebook's computing dtype.
    """

    center: Tensor
    scale: Tensor
    codes: Tensor
    half_norms: Tensor


def prepare(codebook: Tensor, metric: str) -> Prepared:
    """Prepares a codebook (K, D) for the search under ``euclid`` or ``cosine``."""
    codebook = codebook.detach().to(computing_dtype(codebook))
    extent = codebook.abs().amax()
    unit = torch.ones_like(extent)
    bad = torch.where(torch.isfinite(extent), unit, torch.full_like(extent, torch.nan))
    if metric == "cosine":
        # dividing by the extent first keeps the squares inside the range
        codes = F.normalize(codebook / torch.where(extent > 0, extent, unit), dim=1).float()
        return Prepared(
            torch.zeros_like(codebook[0]), bad.float(), codes.T.contiguous(), codes.new_zeros(len(codes))
        )
    center = _center(codebook)
    codes = codebook - center
    exponent = torch.frexp(codes.abs().amax()).exponent.clamp(-100, 100)
    scale = torch.ldexp(bad, -exponent)
    codes = (codes * scale).float()
    return Prepared(center, scale.float(), codes.T.contiguous(), codes.square().sum(dim=1) / 2)


def _center(codebook: Tensor) -> Tensor:
    """The middle of the codebook along each channel in which it lies away from the origin, 0 along the others (D,).

    Differences of large coordinates lose what tells near codes apart. Along a channel whose middle is at least twice
    its half width away, moving the origin there makes no code longer, so it can only gain; along others it could lose
    what small coordinates near 0 hold. The middle is rounded to a power of two below the half width: then moving a
    lattice keeps it one, and exact ties stay exact.
    """
    lowest, highest = codebook.amin(dim=0) / 2, codebook.amax(dim=0) / 2
    half_width, middle = highest - lowest, highest + lowest
    step = torch.ldexp(torch.ones_like(middle), torch.frexp(half_width).exponent.clamp(min=-100) - 1)
    rounded = torch.where(half_width > 0, torch.round(middle / step) * step, middle)
    return torch.where(middle.abs() >= 2 * half_width, rounded, torch.zeros_like(middle))
