"""The bit ops in Triton: sign-pack and the entropy of every latent in one pass, and the entropy's gradient in another.

The mean distribution over codes has no kernel: it is a product of two thin factors (see ``blocked.py``), bound by its
flops, and cuBLAS multiplies better than a kernel that would save the 8 N 2^(d/2) bytes of the factors.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vistok_kernels.bits import blocked


def block(dim: int) -> tuple[int, int]:
    """Rows and channels of one program: about 1024 values, 8 for each thread of 4 warps."""
    width = triton.next_power_of_2(dim)
    return max(1, 1024 // width), width


@triton.jit
def bit_pack_kernel(
    latents,
    indices,
    entropies,
    num_latents,
    stride_row,
    stride_channel,
    strength_of_one,
    DIM: tl.constexpr,
    PACK: tl.constexpr,
    ENTROPY: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Packs the signs of a block of latents and adds the entropies of their bits.

    Floor: 4 N d bytes read, 8 N + 4 N written; about 12 N d flops.
    """
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    at = tl.arange(0, BLOCK_CHANNELS)
    mask = (rows < num_latents)[:, None] & (at < DIM)[None, :]
    x = tl.load(latents + rows[:, None] * stride_row + at[None, :] * stride_channel, mask=mask).to(tl.float32)
    x = tl.where(mask, x, 0.0)
    if PACK:
        places = tl.maximum(DIM - 1 - at, 0).to(tl.int64)
        packed = tl.sum((x > 0).to(tl.int64) << places[None, :], axis=1)
        finite = tl.min((tl.abs(x) < float("inf")).to(tl.int32), axis=1)
        tl.store(indices + rows, tl.where(finite > 0, packed, -1), mask=rows < num_latents)
    if ENTROPY:
        # _STRONGEST of blocked.py
        strength = tl.minimum(tl.abs(x * strength_of_one), 1000.0)
        small = tl.exp(-strength)
        each = tl.log(1.0 + small) + strength * small / (1.0 + small)
        # Inf would pass for a bit without doubt
        each = tl.where(tl.abs(x) < float("inf"), each, float("nan"))
        tl.store(entropies + rows, tl.sum(tl.where(mask, each, 0.0), axis=1), mask=rows < num_latents)


@triton.jit
def bit_entropies_backward_kernel(
    gradient,
    latents,
    gradient_in,
    num_latents,
    stride_row,
    stride_channel,
    strength_of_one,
    DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """The entropies' gradient, a p q of each bit. Floor: 4 N d + 4 N bytes read, 4 N d written."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    at = tl.arange(0, BLOCK_CHANNELS)
    mask = (rows < num_latents)[:, None] & (at < DIM)[None, :]
    x = tl.load(latents + rows[:, None] * stride_row + at[None, :] * stride_channel, mask=mask).to(tl.float32)
    above = tl.load(gradient + rows, mask=rows < num_latents).to(tl.float32)
    logits = tl.minimum(tl.maximum(x * strength_of_one, -1000.0), 1000.0)
    small = tl.exp(-tl.abs(logits))
    slope = -strength_of_one * logits * small / ((1.0 + small) * (1.0 + small))
    tl.store(gradient_in + rows[:, None] * DIM + at[None, :], slope * above[:, None], mask=mask)


def bit_pack(latents: Tensor, scale: float, pack: bool, entropy: bool) -> tuple[Tensor, Tensor]:
    """Launches the forward pass on latents (N, d); what is not asked for comes back empty."""
    if latents.dtype == torch.float64:
        return _pack_double(latents, scale, pack, entropy)
    num_latents, dim = latents.shape
    indices = torch.empty(num_latents if pack else 0, dtype=torch.int64, device=latents.device)
    entropies = torch.empty(num_latents if entropy else 0, dtype=torch.float32, device=latents.device)
    if num_latents == 0:
        return entropies, indices
    rows, width = block(dim)
    with torch.cuda.device_of(latents):
        bit_pack_kernel[(triton.cdiv(num_latents, rows),)](
            latents,
            indices,
            entropies,
            num_latents,
            *latents.stride(),
            4.0 * scale,
            DIM=dim,
            PACK=pack,
            ENTROPY=entropy,
            BLOCK_ROWS=rows,
            BLOCK_CHANNELS=width,
        )
    return entropies, indices


def _pack_double(latents: Tensor, scale: float, pack: bool, entropy: bool) -> tuple[Tensor, Tensor]:
    """The same in PyTorch: the kernel reads at most float32, where a tiny latent would lose its sign."""
    entropies, indices = blocked.bit_pack(latents, scale, pack, entropy)
    bad = ~torch.isfinite(latents).all(dim=1)
    return (
        entropies.masked_fill_(bad, torch.nan) if entropy else entropies,
        indices.masked_fill_(bad, -1) if pack else indices,
    )


def bit_entropies_backward(gradient: Tensor, latents: Tensor, scale: float) -> Tensor:
    """Launches the backward pass: gradient (N,), latents (N, d) -> (N, d)."""
    if latents.dtype == torch.float64:
        return blocked.bit_entropies_backward(gradient, latents, scale)
    num_latents, dim = latents.shape
    gradient_in = torch.empty(num_latents, dim, dtype=latents.dtype, device=latents.device)
    if num_latents == 0:
        return gradient_in
    rows, width = block(dim)
    with torch.cuda.device_of(latents):
        bit_entropies_backward_kernel[(triton.cdiv(num_latents, rows),)](
            gradient.contiguous(),
            latents,
            gradient_in,
            num_latents,
            *latents.stride(),
            4.0 * scale,
            DIM=dim,
            BLOCK_ROWS=rows,
            BLOCK_CHANNELS=width,
        )
    return gradient_in
