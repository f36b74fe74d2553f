"""The vector-quantization ops in Triton. Neither waits for the device, neither holds N x K scores in memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from vistok_kernels.vq.prepared import prepare


class Tile(NamedTuple):
    """How one program is cut: latents x codes x channels, its warps, and the stages of its load pipeline."""

    rows: int
    codes: int
    channels: int
    num_warps: int
    num_stages: int


def search_tile(dim: int) -> Tile:
    """The tile of a search over ``dim`` channels: no spills and fitting shared memory on every target of ``ahead``."""
    if dim <= 16:
        return Tile(128, 64, 16, 4, 2)
    if dim <= 32:
        return Tile(128, 64, 32, 8, 2)
    return Tile(64, 64, 16, 8, 2)


def sums_tile(dim: int) -> Tile:
    """The tile of ``code_sums``: a program adds up one code, so it needs few rows at a time."""
    return Tile(32, 1, min(128, triton.next_power_of_2(dim)), 1, 1)


@triton.jit
def _load_moved(row_ptrs, stride_channel, center, unit, channels, row_mask, DIM: tl.constexpr):
    """Latents in the frame of the prepared codebook, (rows, channels), and whether each row is finite."""
    present = channels < DIM
    mask = row_mask[:, None] & present[None, :]
    raw = tl.load(row_ptrs[:, None] + channels[None, :] * stride_channel, mask=mask).to(tl.float32)
    raw = tl.where(mask, raw, 0.0)
    moved = (raw - tl.load(center + channels, mask=present, other=0.0)[None, :]) * unit
    # FARTHEST of prepared.py
    moved = tl.where(mask, tl.minimum(tl.maximum(moved, -1e18), 1e18), 0.0)
    # Inf times 0 is NaN, and a NaN unit says that the codebook is bad
    finite = tl.min((tl.abs(raw * 0.0 + unit) < float("inf")).to(tl.int32), axis=1)
    return moved, finite


@triton.jit
def nearest_code_kernel(
    latents,
    codes,
    half_norms,
    center,
    scale,
    indices,
    num_latents,
    num_codes,
    stride_row,
    stride_channel,
    DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CODES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """A program keeps the best code of each of its rows while the codebook streams past from L2.

    Floor: 4 (N D + K D + K) + 8 N bytes, each input once from memory; 2 N K D flops. Latents stay in registers where
    one tile holds all channels, and stream too where it does not. Dims below 16 are padded to 16.
    """
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_mask = rows < num_latents
    row_ptrs = latents + rows * stride_row
    unit = tl.load(scale)
    first_channels = tl.arange(0, BLOCK_CHANNELS)
    kept, finite = _load_moved(row_ptrs, stride_channel, center, unit, first_channels, row_mask, DIM)
    for channel in range(BLOCK_CHANNELS, DIM, BLOCK_CHANNELS):
        _, more = _load_moved(row_ptrs, stride_channel, center, unit, channel + first_channels, row_mask, DIM)
        finite = tl.minimum(finite, more)

    best = tl.full((BLOCK_ROWS,), float("inf"), tl.float32)
    found = tl.zeros((BLOCK_ROWS,), tl.int32)
    for start in range(0, num_codes, BLOCK_CODES):
        columns = start + tl.arange(0, BLOCK_CODES)
        column_mask = columns < num_codes
        code_ptrs = codes + columns.to(tl.int64)[None, :]
        stride = num_codes.to(tl.int64)
        mask = column_mask[None, :] & (first_channels < DIM)[:, None]
        tile = tl.load(code_ptrs + first_channels[:, None] * stride, mask=mask, other=0.0)
        if DIM <= BLOCK_CHANNELS:
            product = tl.dot(kept, tile, input_precision="ieee")
        else:
            product = tl.zeros((BLOCK_ROWS, BLOCK_CODES), tl.float32)
            for channel in range(0, DIM, BLOCK_CHANNELS):
                channels = channel + first_channels
                part, _ = _load_moved(row_ptrs, stride_channel, center, unit, channels, row_mask, DIM)
                mask = column_mask[None, :] & (channels < DIM)[:, None]
                tile = tl.load(code_ptrs + channels[:, None] * stride, mask=mask, other=0.0)
                product = tl.dot(part, tile, product, input_precision="ieee")
        score = tl.load(half_norms + columns, mask=column_mask, other=float("inf"))[None, :] - product
        lowest, position = tl.min(score, axis=1, return_indices=True)
        # strictly better only, so that of equal scores the lowest index stays
        better = lowest < best
        best = tl.where(better, lowest, best)
        found = tl.where(better, start + position, found)

    tl.store(indices + rows, tl.where(finite > 0, found, -1).to(tl.int64), mask=row_mask)


def nearest_code(latents: Tensor, codebook: Tensor, metric: str) -> Tensor:
    """Launches the search; see ``vistok_kernels.nearest_code``."""
    ready = prepare(codebook, metric)
    center = ready.center
    if latents.dtype == torch.float64:
        # the kernel reads at most float32; what float64 adds lies far from the origin, and is kept by moving here
        latents, center = (latents - center).float(), torch.zeros_like(center)
    num_latents, dim = latents.shape
    indices = torch.empty(num_latents, dtype=torch.int64, device=latents.device)
    if num_latents == 0:
        return indices
    tile = search_tile(dim)
    with torch.cuda.device_of(latents):
        nearest_code_kernel[(triton.cdiv(num_latents, tile.rows),)](
            latents,
            ready.codes,
            ready.half_norms,
            center.float(),
            ready.scale,
            indices,
            num_latents,
            codebook.shape[0],
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


@triton.jit
def code_sums_kernel(
    latents,
    order,
    offsets,
    sums,
    stride_row,
    stride_channel,
    DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """A program owns one code and adds its latents in their order: no atomics, the same bits at every run.

    Floor: 4 D (N + K) + 8 N + 8 K bytes, N D flops.
    """
    code = tl.program_id(0).to(tl.int64)
    channels = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    present = channels < DIM
    start = tl.load(offsets + code).to(tl.int32)
    end = tl.load(offsets + code + 1).to(tl.int32)
    total = tl.zeros((BLOCK_CHANNELS,), tl.float32)
    for first in range(start, end, BLOCK_ROWS):
        slots = first + tl.arange(0, BLOCK_ROWS)
        rows = tl.load(order + slots, mask=slots < end, other=0)
        mask = (slots < end)[:, None] & present[None, :]
        values = tl.load(latents + rows[:, None] * stride_row + channels[None, :] * stride_channel, mask=mask)
        total += tl.sum(tl.where(mask, values.to(tl.float32), 0.0), axis=0)
    tl.store(sums + code * DIM + channels, total, mask=present)


def code_sums(latents: Tensor, indices: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    """Sorts the latents by code and launches one program a code; see ``vistok_kernels.code_sums``."""
    dim = latents.shape[1]
    ordered, order = torch.sort(indices.long(), stable=True)
    # an index outside [0, K) sorts before the first boundary or behind the last
    boundaries = torch.arange(codebook_size + 1, device=indices.device)
    offsets = torch.searchsorted(ordered, boundaries)
    sums = torch.empty(codebook_size, dim, dtype=torch.float32, device=latents.device)
    tile = sums_tile(dim)
    with torch.cuda.device_of(latents):
        code_sums_kernel[(codebook_size, triton.cdiv(dim, tile.channels))](
            latents,
            order,
            offsets,
            sums,
            latents.stride(0),
            latents.stride(1),
            DIM=dim,
            BLOCK_ROWS=tile.rows,
            BLOCK_CHANNELS=tile.channels,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
    return offsets.diff(), sums
