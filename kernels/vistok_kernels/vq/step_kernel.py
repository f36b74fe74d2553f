# mypy: ignore-errors
# as in every kernel.py: Triton's decorator and its arguments have no types
"""The training step's pass over the latents in Triton: search, gather and squared error in one launch, no atomics."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vistok_kernels.vq.kernel import (
    code_sums,
    framed,
    nearest_code,
    num_splits,
    processors,
    search_rows,
    search_tile,
)
from vistok_kernels.vq.prepared import prepare


@triton.jit
def _gather_rows(
    rows,
    row_mask,
    found,
    latents,
    codebook,
    chosen,
    errors,
    stride_row,
    stride_channel,
    stride_code,
    stride_code_channel,
    DIM: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Writes the code of each row, NaN for -1, and this program's sum of squared differences."""
    total = tl.zeros((1,), tl.float32)
    named = found >= 0
    codes = tl.where(named, found, 0).to(tl.int64)
    for channel in range(0, DIM, BLOCK_CHANNELS):
        channels = channel + tl.arange(0, BLOCK_CHANNELS)
        mask = row_mask[:, None] & (channels < DIM)[None, :]
        value = tl.load(latents + rows[:, None] * stride_row + channels[None, :] * stride_channel, mask=mask)
        code_ptrs = codebook + codes[:, None] * stride_code + channels[None, :] * stride_code_channel
        code = tl.load(code_ptrs, mask=mask).to(tl.float32)
        code = tl.where(named[:, None], code, float("nan"))
        tl.store(chosen + rows[:, None] * DIM + channels[None, :], code, mask=mask)
        difference = tl.where(mask, value.to(tl.float32) - code, 0.0)
        total += tl.sum(difference * difference)
    tl.store(errors + tl.program_id(0) + tl.arange(0, 1), total)


@triton.jit
def vq_step_kernel(
    latents,
    codebook,
    codes,
    half_norms,
    center,
    scale,
    indices,
    chosen,
    errors,
    num_latents,
    num_codes,
    stride_row,
    stride_channel,
    stride_code,
    stride_code_channel,
    DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CODES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """The search, the gather and the squared error in one pass over the latents; no atomics.

    Floor: 4 (2 N D + 2 K D + K) + 8 N bytes, 2 N K D flops.
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
    _gather_rows(
        rows,
        row_mask,
        found,
        latents,
        codebook,
        chosen,
        errors,
        stride_row,
        stride_channel,
        stride_code,
        stride_code_channel,
        DIM,
        BLOCK_CHANNELS,
    )


@triton.jit
def gather_step_kernel(
    latents,
    codebook,
    indices,
    chosen,
    errors,
    num_latents,
    stride_row,
    stride_channel,
    stride_code,
    stride_code_channel,
    DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """What ``vq_step_kernel`` does after its search, where the search was split. Floor: 12 N D + 8 N bytes."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_mask = rows < num_latents
    found = tl.load(indices + rows, mask=row_mask, other=0)
    _gather_rows(
        rows,
        row_mask,
        found,
        latents,
        codebook,
        chosen,
        errors,
        stride_row,
        stride_channel,
        stride_code,
        stride_code_channel,
        DIM,
        BLOCK_CHANNELS,
    )


def vq_step(
    latents: Tensor,
    codebook: Tensor,
    metric: str,
    given: Tensor | None = None,
    statistics: bool = True,
    splits: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Launches the pass, then the sums in the order of the codes; see ``vistok_kernels.vq_step``.

    The sums read the latents a second time, code by code: adding them up in the first pass would take atomics, whose
    order, and with it the last bits, changes from run to run. ``given`` are indices known already; ``splits`` is for tests.
    """
    num_latents, dim = latents.shape
    num_codes = codebook.shape[0]
    tile = search_tile(dim)
    splits = splits or num_splits(num_latents, num_codes, dim, processors(latents.device))
    num_blocks = triton.cdiv(num_latents, tile.rows)
    chosen = torch.empty(num_latents, dim, dtype=codebook.dtype, device=latents.device)
    errors = torch.empty(num_blocks, device=latents.device)
    indices = (
        torch.empty(num_latents, dtype=torch.int64, device=latents.device)
        if given is None
        else given.contiguous()
    )
    if given is None and splits > 1:
        indices = nearest_code(latents, codebook, metric, splits)
    strides = (latents.stride(0), latents.stride(1), codebook.stride(0), codebook.stride(1))
    if num_latents == 0:
        pass
    elif given is not None or splits > 1:
        with torch.cuda.device_of(latents):
            gather_step_kernel[(num_blocks,)](
                latents,
                codebook,
                indices,
                chosen,
                errors,
                num_latents,
                *strides,
                DIM=dim,
                BLOCK_ROWS=tile.rows,
                BLOCK_CHANNELS=tile.channels,
                num_warps=tile.num_warps,
            )
    else:
        ready = prepare(codebook, metric)
        _, center = framed(latents, ready)
        with torch.cuda.device_of(latents):
            vq_step_kernel[(num_blocks,)](
                latents,
                codebook,
                ready.codes,
                ready.half_norms,
                center,
                ready.scale,
                indices,
                chosen,
                errors,
                num_latents,
                num_codes,
                *strides,
                DIM=dim,
                BLOCK_ROWS=tile.rows,
                BLOCK_CODES=tile.codes,
                BLOCK_CHANNELS=tile.channels,
                num_warps=tile.num_warps,
                num_stages=tile.num_stages,
            )
    error = errors.double().sum().float()
    if not statistics:
        return chosen, indices, error, indices.new_empty(0), errors.new_empty(0, dim)
    return chosen, indices, error, *code_sums(latents, indices, num_codes)
