"""The vector-quantization ops in Triton. Neither waits for the device, neither holds N x K scores in memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from vistok_kernels.vq.prepared import Prepared, prepare

MERGED_ROWS = 128


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
        return Tile(64, 64, 32, 8, 2)
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
def scan_codes(
    kept,
    row_ptrs,
    stride_channel,
    center,
    unit,
    row_mask,
    codes,
    half_norms,
    first,
    last,
    num_codes,
    DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CODES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """The lowest score of each row over the codes [first, last) and its index: 0 where all scores are infinite.

    ``kept`` holds the first channels of the rows in the frame; further ones, if any, are read again for every tile.
    """
    first_channels = tl.arange(0, BLOCK_CHANNELS)
    stride = num_codes.to(tl.int64)
    best = tl.full((BLOCK_ROWS,), float("inf"), tl.float32)
    found = tl.zeros((BLOCK_ROWS,), tl.int32)
    for start in range(first, last, BLOCK_CODES):
        columns = start + tl.arange(0, BLOCK_CODES)
        column_mask = columns < last
        code_ptrs = codes + columns.to(tl.int64)[None, :]
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
    return best, found


@triton.jit
def search_rows(
    row_ptrs,
    stride_channel,
    center,
    scale,
    row_mask,
    codes,
    half_norms,
    first,
    last,
    num_codes,
    DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CODES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Lowest score and its index (-1 for a row that is not finite) of each row, from the latents in memory."""
    unit = tl.load(scale)
    first_channels = tl.arange(0, BLOCK_CHANNELS)
    kept, finite = _load_moved(row_ptrs, stride_channel, center, unit, first_channels, row_mask, DIM)
    for channel in range(BLOCK_CHANNELS, DIM, BLOCK_CHANNELS):
        _, more = _load_moved(row_ptrs, stride_channel, center, unit, channel + first_channels, row_mask, DIM)
        finite = tl.minimum(finite, more)
    best, found = scan_codes(
        kept,
        row_ptrs,
        stride_channel,
        center,
        unit,
        row_mask,
        codes,
        half_norms,
        first,
        last,
        num_codes,
        DIM,
        BLOCK_ROWS,
        BLOCK_CODES,
        BLOCK_CHANNELS,
    )
    return best, tl.where(finite > 0, found, -1)


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
    _, found = search_rows(
        latents + rows * stride_row,
        stride_channel,
        center,
        scale,
        row_mask,
        codes,
        half_norms,
        0,
        num_codes,
        num_codes,
        DIM,
        BLOCK_ROWS,
        BLOCK_CODES,
        BLOCK_CHANNELS,
    )
    tl.store(indices + rows, found.to(tl.int64), mask=row_mask)


@triton.jit
def split_search_kernel(
    latents,
    codes,
    half_norms,
    center,
    scale,
    scores,
    indices,
    num_latents,
    num_codes,
    codes_per_split,
    stride_row,
    stride_channel,
    DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CODES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """The search over one part of the codebook a program, for latents too few to fill the GPU by themselves.

    Floor: 4 (N D + K D + K) + 8 N S bytes for S parts, 2 N K D flops.
    """
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_mask = rows < num_latents
    first = tl.program_id(1) * codes_per_split
    best, found = search_rows(
        latents + rows * stride_row,
        stride_channel,
        center,
        scale,
        row_mask,
        codes,
        half_norms,
        first,
        tl.minimum(first + codes_per_split, num_codes),
        num_codes,
        DIM,
        BLOCK_ROWS,
        BLOCK_CODES,
        BLOCK_CHANNELS,
    )
    slots = tl.program_id(1).to(tl.int64) * num_latents + rows
    tl.store(scores + slots, best, mask=row_mask)
    tl.store(indices + slots, found, mask=row_mask)


@triton.jit
def merge_splits_kernel(scores, split_indices, indices, num_latents, num_splits, BLOCK_ROWS: tl.constexpr):
    """The best of the parts' winners, the lowest index of equal ones. Floor: 8 N S + 8 N bytes."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_mask = rows < num_latents
    best = tl.load(scores + rows, mask=row_mask)
    found = tl.load(split_indices + rows, mask=row_mask)
    for split in range(1, num_splits):
        slots = rows + tl.cast(split, tl.int64) * num_latents
        score = tl.load(scores + slots, mask=row_mask)
        # parts ascend; a bad row is -1 in all of them
        better = score < best
        found = tl.where(better, tl.load(split_indices + slots, mask=row_mask), found)
        best = tl.where(better, score, best)
    tl.store(indices + rows, found.to(tl.int64), mask=row_mask)


def processors(device: torch.device) -> int:
    """How many programs a GPU runs side by side at the least; 1 for the CPU, where the interpreter runs."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def num_splits(num_latents: int, num_codes: int, dim: int, num_processors: int) -> int:
    """Into how many parts to split the codebook so that few latents keep a GPU busy: parts of 8 tiles or more."""
    tile = search_tile(dim)
    num_programs = triton.cdiv(max(num_latents, 1), tile.rows)
    return max(1, min(num_processors // num_programs, num_codes // (8 * tile.codes)))


def framed(latents: Tensor, ready: Prepared) -> tuple[Tensor, Tensor]:
    """Latents and center as the kernels read them, which is float32 at most.

    What float64 adds lies far from the origin, and is kept by moving here.
    """
    if latents.dtype != torch.float64:
        return latents, ready.center.float()
    return (latents - ready.center).float(), torch.zeros_like(ready.center, dtype=torch.float32)


def nearest_code(latents: Tensor, codebook: Tensor, metric: str, splits: int | None = None) -> Tensor:
    """Launches the search; see ``vistok_kernels.nearest_code``. ``splits`` is for tests."""
    return search(prepare(codebook, metric), latents, splits)


def search(ready: Prepared, latents: Tensor, splits: int | None = None) -> Tensor:
    """Launches the search in a prepared codebook."""
    num_latents, dim = latents.shape
    num_codes = ready.half_norms.shape[0]
    indices = torch.empty(num_latents, dtype=torch.int64, device=latents.device)
    if num_latents == 0:
        return indices
    splits = splits or num_splits(num_latents, num_codes, dim, processors(latents.device))
    latents, center = framed(latents, ready)
    tile = search_tile(dim)
    num_blocks = triton.cdiv(num_latents, tile.rows)
    shape = {
        "DIM": dim,
        "BLOCK_ROWS": tile.rows,
        "BLOCK_CODES": tile.codes,
        "BLOCK_CHANNELS": tile.channels,
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
    }
    table = (latents, ready.codes, ready.half_norms, center, ready.scale)
    strides = (latents.stride(0), latents.stride(1))
    with torch.cuda.device_of(latents):
        if splits == 1:
            nearest_code_kernel[(num_blocks,)](*table, indices, num_latents, num_codes, *strides, **shape)
            return indices
        # whole tiles, so that every part but the last has as many codes
        per_split = triton.cdiv(triton.cdiv(num_codes, splits), tile.codes) * tile.codes
        splits = triton.cdiv(num_codes, per_split)
        scores = torch.empty(splits, num_latents, device=latents.device)
        found = torch.empty(splits, num_latents, dtype=torch.int32, device=latents.device)
        split_search_kernel[(num_blocks, splits)](
            *table, scores, found, num_latents, num_codes, per_split, *strides, **shape
        )
        merge_splits_kernel[(triton.cdiv(num_latents, MERGED_ROWS),)](
            scores, found, indices, num_latents, splits, BLOCK_ROWS=MERGED_ROWS
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
