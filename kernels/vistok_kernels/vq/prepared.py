"""The frame in which a search compares latents with codes: moved to the middle of the codebook and scaled, O(K D) work."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vistok_kernels.checks import computing_dtype

# Past this many times the codebook's extent all codes are equally near at float32's precision, while products
# still stay far from float32's largest number.
FARTHEST = 1e18


class Frame(NamedTuple):
    """How latents and codes are brought to where ``half norm - latent @ code`` orders codes by distance.

    Latents become ``(latents - center) * scale``. ``scale`` is NaN where the codebook holds a NaN or Inf, so that
    every score and thus every row is marked bad without asking the device. ``length`` is None under ``euclid``; under
    ``cosine`` codes are divided by it before they are normalised, which keeps their squares inside the range.

    Shapes:
        center (..., D) in the codebook's computing dtype, scale (...) float32, length (...); ... for several codebooks.
    """

    center: Tensor
    scale: Tensor
    length: Tensor | None


class Prepared(NamedTuple):
    """A codebook in its frame, as the Triton kernels read it.

    Shapes:
        center (..., D), scale (...), codes (..., D, K), half_norms (..., K); float32, center in the codebook's computing dtype.
    """

    center: Tensor
    scale: Tensor
    codes: Tensor
    half_norms: Tensor


def frame(codebook: Tensor, metric: str) -> Frame:
    """The frame of a codebook (..., K, D) under ``euclid`` or ``cosine``; holds no tensor as large as the codebook."""
    dtype = computing_dtype(codebook)
    lowest, highest = codebook.amin(dim=-2).to(dtype), codebook.amax(dim=-2).to(dtype)
    extent = torch.maximum(highest, -lowest).amax(dim=-1)
    unit = torch.ones_like(extent)
    bad = torch.where(torch.isfinite(extent), unit, torch.full_like(extent, torch.nan))
    if metric == "cosine":
        return Frame(torch.zeros_like(lowest), bad.float(), torch.where(extent > 0, extent, unit))
    center = _center(lowest, highest)
    reach = torch.maximum((highest - center).abs(), (lowest - center).abs()).amax(dim=-1)
    scale = torch.ldexp(bad, -torch.frexp(reach).exponent.clamp(-100, 100))
    return Frame(center, scale.float(), None)


def place(codes: Tensor, where: Frame) -> Tensor:
    """Codes (..., K, D) in the frame, in float32."""
    codes = codes.to(computing_dtype(codes))
    if where.length is not None:
        return F.normalize(codes / where.length[..., None, None], dim=-1).float()
    return ((codes - where.center.unsqueeze(-2)) * where.scale[..., None, None]).float()


def into(block: Tensor, latents: Tensor, where: Frame) -> None:
    """Writes latents (R, D) into ``block`` (R, D) float32, moved into the frame; for codebooks without further dimensions."""
    moved = latents.to(computing_dtype(latents)) - where.center
    block.copy_(moved.mul_(where.scale).clamp_(-FARTHEST, FARTHEST))


def half_norms(placed: Tensor, where: Frame) -> Tensor:
    """Half the squared length of each placed code (..., K); 0 under ``cosine``, where all have the same."""
    if where.length is not None:
        return placed.new_zeros(placed.shape[:-1])
    return placed.square().sum(dim=-1) / 2


def prepare(codebook: Tensor, metric: str) -> Prepared:
    """Prepares a codebook (K, D), or several (S, K, D), for the search in Triton."""
    codebook = codebook.detach()
    where = frame(codebook, metric)
    placed = place(codebook, where)
    return Prepared(where.center, where.scale, placed.mT.contiguous(), half_norms(placed, where))


def _center(lowest: Tensor, highest: Tensor) -> Tensor:
    """The middle of the codebook along each channel in which it lies away from the origin, 0 along the others (..., D).

    Differences of large coordinates lose what tells near codes apart. Along a channel whose middle is at least twice
    its half width away, moving the origin there makes no code longer, so it can only gain; along others it could lose
    what small coordinates near 0 hold. The middle is rounded to a power of two below the half width: then moving a
    lattice keeps it one, and exact ties stay exact.
    """
    lowest, highest = lowest / 2, highest / 2
    half_width, middle = highest - lowest, highest + lowest
    step = torch.ldexp(torch.ones_like(middle), torch.frexp(half_width).exponent.clamp(min=-100) - 1)
    rounded = torch.where(half_width > 0, torch.round(middle / step) * step, middle)
    return torch.where(middle.abs() >= 2 * half_width, rounded, torch.zeros_like(middle))
