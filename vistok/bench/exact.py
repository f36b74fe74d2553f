"""What results are held to: float64 definitions, computed in tiles so that they fit at every size."""

from __future__ import annotations

import torch
from torch import Tensor

from vistok.bench.case import Inputs, Result

# of |latent|^2 + |code|^2, both from the middle of the codebook: nearer than this, float32 may choose either
NEAR_TIE = 1e-5
_TILE = 1 << 24


def nearest(latents: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest squared distance of each latent and the first code that has it, in float64: (N,), (N,)."""
    latents, codebook = _centred(latents, codebook)
    lengths = codebook.square().sum(dim=1)
    rows = max(1, _TILE // len(codebook))
    best, found = [], []
    for part in torch.split(latents, rows):
        scores = torch.addmm(lengths, part, codebook.T, alpha=-2)
        low, index = scores.min(dim=1)
        best.append(low + part.square().sum(dim=1))
        found.append(index)
    return torch.cat(best), torch.cat(found)


def fault_of_indices(latents: Tensor, codebook: Tensor, indices: Tensor) -> tuple[str | None, int]:
    """What is wrong with chosen indices, or None; and how many near ties differ from float64's argmin.

    Shapes:
        latents (N, D), codebook (K, D), indices (N,).
    """
    if indices.shape != latents.shape[:1] or int(indices.min()) < 0 or int(indices.max()) >= len(codebook):
        return "indices of another shape or out of range", 0
    best, found = nearest(latents, codebook)
    latents, codebook = _centred(latents, codebook)
    codes = codebook[indices]
    chosen = (latents - codes).square().sum(dim=1)
    allowed = NEAR_TIE * (latents.square().sum(dim=1) + codes.square().sum(dim=1))
    num_wrong = int((chosen - best > allowed).sum())
    num_ties = int((indices != found).sum()) - num_wrong
    return (f"{num_wrong} of {len(indices)} indices are wrong" if num_wrong else None), max(0, num_ties)


def check_search(inputs: Inputs, result: Result, ours: bool) -> tuple[str | None, int]:
    """The check of a nearest-code search or of a quantizer built on it, and of what else it gave."""
    assert result.indices is not None
    fault, ties = fault_of_indices(inputs.latents, inputs.codebooks[0], result.indices.flatten())
    return fault or not_finite(result), ties


def check_stages(inputs: Inputs, result: Result, ours: bool) -> tuple[str | None, int]:
    """The check of residual stages: each choice, given the choices of the stages before it."""
    assert result.indices is not None
    left, num_ties = inputs.latents, 0
    indices = result.indices.reshape(len(left), -1)
    for stage, codebook in enumerate(inputs.codebooks):
        fault, ties = fault_of_indices(left, codebook, indices[:, stage])
        if fault:
            return f"stage {stage}: {fault}", 0
        left, num_ties = left - codebook[indices[:, stage]], num_ties + ties
    return not_finite(result), num_ties


def check_signs(inputs: Inputs, result: Result, ours: bool) -> tuple[str | None, int]:
    """The check of sign-packed bits, the first channel being the most significant."""
    bits = (inputs.latents > 0).long()
    powers = 2 ** torch.arange(bits.shape[1] - 1, -1, -1, device=bits.device)
    if result.indices is not None and not torch.equal(result.indices.flatten(), (bits * powers).sum(dim=1)):
        return "indices are not the packed signs", 0
    return not_finite(result), 0


def not_finite(result: Result) -> str | None:
    """Names a value that is missing or not finite, or None."""
    for name, value in result.values.items():
        if not bool(value.isfinite().all()):
            return f"{name} is not finite"
    return None


def distance(found: Tensor, expected: Tensor) -> float:
    """The largest difference in units of the largest expected magnitude."""
    largest = float(expected.abs().max())
    return float((found.double() - expected.double()).abs().max()) / max(largest, 1e-30)


def _centred(latents: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    latents, codebook = latents.detach().double(), codebook.detach().double()
    middle = codebook.mean(dim=0)
    return latents - middle, codebook - middle
