"""The residual and product searches in Triton, all stages or groups in one launch. Neither waits for the device."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vistok_kernels.residual import blocked
from vistok_kernels.vq.kernel import Tile, nearest_code, scan_codes, search_rows, search_tile
from vistok_kernels.vq.prepared import prepare

WIDEST = 128


def residual_tile(dim: int) -> Tile:
    """The tile of ``residual_codes``, whose rows stay in registers with all their channels: up to ``WIDEST``, else that of a search."""
    if dim <= 16:
        return Tile(64, 64, 16, 4, 2)
    if dim <= 32:
        return Tile(32, 64, 32, 4, 2)
    if dim <= 64:
        return Tile(32, 64, 64, 8, 2)
    return Tile(16, 32, 128, 8, 1) if dim <= WIDEST else search_tile(dim)


@triton.jit
def residual_codes_kernel(
    latents,
    codebooks,
    codes,
    half_norms,
    center,
    scale,
    indices,
    quantized,
    num_latents,
    num_codes,
    num_codebooks,
    stride_row,
    stride_channel,
    DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CODES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """A program keeps what is left of its rows in registers while the codebooks of all stages stream past from L2.

    Floor: 4 (2 N D + S K D + S K) + 8 N S bytes, 2 N S K D flops.
    """
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_mask = rows < num_latents
    channels = tl.arange(0, BLOCK_CHANNELS)
    present = channels < DIM
    mask = row_mask[:, None] & present[None, :]
    row_ptrs = latents + rows * stride_row
    left = tl.load(row_ptrs[:, None] + channels[None, :] * stride_channel, mask=mask).to(tl.float32)
    left = tl.where(mask, left, 0.0)
    total = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), tl.float32)
    finite = tl.full((BLOCK_ROWS,), 1, tl.int32)
    for stage in range(0, num_codebooks):
        table = tl.cast(stage, tl.int64) * num_codes
        unit = tl.load(scale + stage)
        middle = tl.load(center + stage * DIM + channels, mask=present, other=0.0)
        # FARTHEST of prepared.py
        moved = tl.minimum(tl.maximum((left - middle[None, :]) * unit, -1e18), 1e18)
        moved = tl.where(mask, moved, 0.0)
        # Inf times 0 is NaN, and a NaN unit says that the codebook is bad: then this stage and all after it are
        finite = tl.minimum(finite, tl.min((tl.abs(left * 0.0 + unit) < float("inf")).to(tl.int32), axis=1))
        _, found = scan_codes(
            moved,
            row_ptrs,
            stride_channel,
            center,
            unit,
            row_mask,
            codes + table * DIM,
            half_norms + table,
            0,
            num_codes,
            num_codes,
            DIM,
            BLOCK_ROWS,
            BLOCK_CODES,
            BLOCK_CHANNELS,
        )
        named = tl.where(finite > 0, found, -1).to(tl.int64)
        tl.store(indices + rows * num_codebooks + stage, named, mask=row_mask)
        code_ptrs = codebooks + (table + found.to(tl.int64))[:, None] * DIM + channels[None, :]
        code = tl.load(code_ptrs, mask=mask, other=0.0)
        left -= code
        total += code
    total = tl.where((finite > 0)[:, None], total, float("nan"))
    tl.store(quantized + rows[:, None] * DIM + channels[None, :], total, mask=mask)


@triton.jit
def wide_residual_codes_kernel(
    left,
    codebooks,
    codes,
    half_norms,
    center,
    scale,
    indices,
    quantized,
    num_latents,
    num_codes,
    num_codebooks,
    DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CODES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """As ``residual_codes_kernel``, with what is left of the rows in memory: it starts as the latents and is written to.

    Floor: 4 (2 N D + S K D + S K) + 8 N S bytes, 2 N S K D flops; what is left passes through L2.
    """
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_mask = rows < num_latents
    row_ptrs = left + rows * DIM
    for stage in range(0, num_codebooks):
        table = tl.cast(stage, tl.int64) * num_codes
        _, found = search_rows(
            row_ptrs,
            1,
            center + stage * DIM,
            scale + stage,
            row_mask,
            codes + table * DIM,
            half_norms + table,
            0,
            num_codes,
            num_codes,
            DIM,
            BLOCK_ROWS,
            BLOCK_CODES,
            BLOCK_CHANNELS,
        )
        tl.store(indices + rows * num_codebooks + stage, found.to(tl.int64), mask=row_mask)
        named = found >= 0
        chosen = (table + tl.where(named, found, 0).to(tl.int64)) * DIM
        # other threads of the program read what is written below, and read before what is overwritten
        tl.debug_barrier()
        for channel in range(0, DIM, BLOCK_CHANNELS):
            channels = channel + tl.arange(0, BLOCK_CHANNELS)
            mask = row_mask[:, None] & (channels < DIM)[None, :]
            slots = rows[:, None] * DIM + channels[None, :]
            code = tl.load(codebooks + chosen[:, None] + channels[None, :], mask=mask, other=0.0)
            # a bad row stays bad in the stages to come
            code = tl.where(named[:, None], code, float("nan"))
            tl.store(left + slots, tl.load(left + slots, mask=mask, other=0.0) - code, mask=mask)
            tl.store(quantized + slots, tl.load(quantized + slots, mask=mask, other=0.0) + code, mask=mask)
        tl.debug_barrier()


def residual_codes(latents: Tensor, codebooks: Tensor) -> tuple[Tensor, Tensor]:
    """Launches all stages at once; see ``vistok_kernels.residual_codes``."""
    num_latents, dim = latents.shape
    num_stages, num_codes, _ = codebooks.shape
    if torch.float64 in (latents.dtype, codebooks.dtype):
        # differences that float32 would lose: one launch a stage
        return blocked.residual_codes(latents, codebooks, nearest_code)
    indices = torch.empty(num_latents, num_stages, dtype=torch.int64, device=latents.device)
    quantized = torch.zeros(num_latents, dim, device=latents.device)
    if num_latents == 0:
        return indices, quantized
    codebooks = codebooks.float().contiguous()
    ready = prepare(codebooks, "euclid")
    tile = residual_tile(dim)
    table = (codebooks, ready.codes, ready.half_norms, ready.center, ready.scale)
    counts = (num_latents, num_codes, num_stages)
    shape = {
        "DIM": dim,
        "BLOCK_ROWS": tile.rows,
        "BLOCK_CODES": tile.codes,
        "BLOCK_CHANNELS": tile.channels,
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
    }
    grid = (triton.cdiv(num_latents, tile.rows),)
    with torch.cuda.device_of(latents):
        if dim <= WIDEST:
            strides = (latents.stride(0), latents.stride(1))
            residual_codes_kernel[grid](latents, *table, indices, quantized, *counts, *strides, **shape)
        else:
            left = latents.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
            wide_residual_codes_kernel[grid](left, *table, indices, quantized, *counts, **shape)
    return indices, quantized


@triton.jit
def product_codes_kernel(
    latents,
    codes,
    half_norms,
    center,
    scale,
    indices,
    num_latents,
    num_codes,
    num_groups,
    stride_row,
    stride_channel,
    DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CODES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """A program searches one group of its rows' channels. Floor: 4 (N G D + G K D + G K) + 8 N G bytes, 2 N G K D flops."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_mask = rows < num_latents
    group = tl.program_id(1).to(tl.int64)
    _, found = search_rows(
        latents + rows * stride_row + group * DIM * stride_channel,
        stride_channel,
        center + group * DIM,
        scale + group,
        row_mask,
        codes + group * DIM * num_codes,
        half_norms + group * num_codes,
        0,
        num_codes,
        num_codes,
        DIM,
        BLOCK_ROWS,
        BLOCK_CODES,
        BLOCK_CHANNELS,
    )
    tl.store(indices + rows * num_groups + group, found.to(tl.int64), mask=row_mask)


def product_codes(latents: Tensor, codebooks: Tensor) -> Tensor:
    """Launches all groups at once; see ``vistok_kernels.product_codes``."""
    num_latents = latents.shape[0]
    num_groups, num_codes, dim = codebooks.shape
    indices = torch.empty(num_latents, num_groups, dtype=torch.int64, device=latents.device)
    if num_latents == 0:
        return indices
    ready = prepare(codebooks, "euclid")
    center = ready.center
    if latents.dtype == torch.float64:
        # the kernel reads at most float32; what float64 adds is kept by moving here
        latents, center = (latents - center.flatten()).float(), torch.zeros_like(center)
    tile = search_tile(dim)
    with torch.cuda.device_of(latents):
        product_codes_kernel[(triton.cdiv(num_latents, tile.rows), num_groups)](
            latents,
            ready.codes,
            ready.half_norms,
            center.float().contiguous(),
            ready.scale,
            indices,
            num_latents,
            num_codes,
            num_groups,
            latents.stride(0),
            latents.stride(1),
            DIM=dim,
            BLOCK_ROWS=tile.rows,
            BLOCK_CODES=tile.codes,
            BLOCK_CHANNELS=tile.channels,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
    return indices
