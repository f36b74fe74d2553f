"""The PyTorch path of the residual and product searches: one blocked search a stage or group, in memory O(N S + K)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from vistok_kernels.checks import computing_dtype
from vistok_kernels.vq import blocked

Search = Callable[[Tensor, Tensor, str], Tensor]


def residual_codes(
    latents: Tensor, codebooks: Tensor, search: Search = blocked.nearest_code
) -> tuple[Tensor, Tensor]:
    """Searches stage by stage. Floor: 4 D (2 N + S K) + 8 N S bytes, 2 N S K (D + 1) flops."""
    dtype = torch.promote_types(computing_dtype(latents), codebooks.dtype)
    left = latents.to(dtype)
    quantized = torch.zeros_like(left, memory_format=torch.contiguous_format)
    chosen = torch.empty(len(latents), len(codebooks), dtype=torch.int64, device=latents.device)
    for stage, codebook in enumerate(codebooks):
        indices = search(left, codebook, "euclid")
        codes = F.embedding(indices.clamp(min=0), codebook)
        if indices.device.type != "cpu":
            # -1 marks a bad row, which stays bad in the stages to come
            codes = torch.where(indices.unsqueeze(1) >= 0, codes, torch.nan)
        left = left - codes
        quantized += codes
        chosen[:, stage] = indices
    return chosen, quantized


def product_codes(latents: Tensor, codebooks: Tensor) -> Tensor:
    """Searches group by group. Floor: 4 G D (N + K) + 8 N G bytes, 2 N G K (D + 1) flops."""
    groups = latents.chunk(len(codebooks), dim=1)
    found = [
        blocked.nearest_code(part, codebook, "euclid")
        for part, codebook in zip(groups, codebooks, strict=True)
    ]
    return torch.stack(found, dim=1)
