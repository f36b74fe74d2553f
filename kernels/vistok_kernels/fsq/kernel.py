"""Finite scalar quantization in Triton: one pass over the latents forward, one backward."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from vistok_kernels.fsq import elementwise
from vistok_kernels.fsq.levels import Channels, channels

# a host-to-device copy at every call would cost more than the kernel
_channels = lru_cache(maxsize=64)(channels)


def block(dim: int) -> tuple[int, int]:
    """Rows and channels of one program: about 1024 values, 8 for each thread of 4 warps."""
    width = triton.next_power_of_2(dim)
    return max(1, 1024 // width), width


@triton.jit
def _tanh(x):
    # from the exponential of a negative number, which cannot overflow
    small = tl.exp(-2.0 * tl.abs(x))
    size = (1.0 - small) / (1.0 + small)
    return tl.where(x < 0, -size, size)


@triton.jit
def _round_half_to_even(x):
    below = tl.floor(x)
    rest = x - below
    odd = (below.to(tl.int64) & 1) != 0
    return tl.where((rest > 0.5) | ((rest == 0.5) & odd), below + 1.0, below)


@triton.jit
def fsq_kernel(
    latents,
    shift,
    reach,
    offset,
    half_widths,
    bases,
    quantized,
    indices,
    num_latents,
    stride_row,
    stride_channel,
    DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Bounds, rounds and numbers a block of latents. Floor: 4 N D bytes read, 4 N D + 8 N written."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    at = tl.arange(0, BLOCK_CHANNELS)
    present = at < DIM
    mask = (rows < num_latents)[:, None] & present[None, :]
    x = tl.load(latents + rows[:, None] * stride_row + at[None, :] * stride_channel, mask=mask).to(tl.float32)
    x = tl.where(mask, x, 0.0)
    finite = tl.abs(x) < float("inf")
    bounded = _tanh(x + tl.load(shift + at, mask=present, other=0.0)[None, :])
    bounded = bounded * tl.load(reach + at, mask=present, other=0.0)[None, :]
    bounded -= tl.load(offset + at, mask=present, other=0.0)[None, :]
    steps = _round_half_to_even(tl.where(finite, bounded, 0.0))
    half_width = tl.load(half_widths + at, mask=present, other=1)[None, :]
    # an approximate division would differ from what fsq_decode gives
    values = tl.div_rn(steps, tl.zeros_like(steps) + half_width.to(tl.float32))
    values = tl.where(finite, values, float("nan"))
    tl.store(quantized + rows[:, None] * DIM + at[None, :], values, mask=mask)
    # the bases of absent channels are 0
    digits = (steps.to(tl.int64) + half_width) * tl.load(bases + at, mask=present, other=0)[None, :]
    good = tl.min(finite.to(tl.int32), axis=1) > 0
    tl.store(indices + rows, tl.where(good, tl.sum(digits, axis=1), -1), mask=rows < num_latents)


@triton.jit
def fsq_backward_kernel(
    gradient,
    latents,
    shift,
    slope,
    gradient_in,
    num_latents,
    stride_row,
    stride_channel,
    stride_gradient_row,
    stride_gradient_channel,
    DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """The bound's gradient, as if nothing were rounded. Floor: 8 N D bytes read, 4 N D written."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    at = tl.arange(0, BLOCK_CHANNELS)
    present = at < DIM
    mask = (rows < num_latents)[:, None] & present[None, :]
    x = tl.load(latents + rows[:, None] * stride_row + at[None, :] * stride_channel, mask=mask).to(tl.float32)
    arrived = gradient + rows[:, None] * stride_gradient_row + at[None, :] * stride_gradient_channel
    above = tl.load(arrived, mask=mask).to(tl.float32)
    height = _tanh(x + tl.load(shift + at, mask=present, other=0.0)[None, :])
    below = above * (1.0 - height * height) * tl.load(slope + at, mask=present, other=0.0)[None, :]
    tl.store(gradient_in + rows[:, None] * DIM + at[None, :], below, mask=mask)


def _constants(latents: Tensor, levels: Sequence[int]) -> Channels:
    return _channels(tuple(levels), torch.float32, latents.device)


def fsq(latents: Tensor, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Launches the forward pass on flat latents (N, D); see ``vistok_kernels.fsq``."""
    if latents.dtype == torch.float64:
        return elementwise.fsq(latents, levels)
    num_latents, dim = latents.shape
    quantized = torch.empty(num_latents, dim, dtype=torch.float32, device=latents.device)
    indices = torch.empty(num_latents, dtype=torch.int64, device=latents.device)
    if num_latents == 0:
        return quantized, indices
    rows, width = block(dim)
    with torch.cuda.device_of(latents):
        fsq_kernel[(triton.cdiv(num_latents, rows),)](
            latents,
            *_constants(latents, levels),
            quantized,
            indices,
            num_latents,
            *latents.stride(),
            DIM=dim,
            BLOCK_ROWS=rows,
            BLOCK_CHANNELS=width,
        )
    return quantized, indices


def fsq_backward(gradient: Tensor, latents: Tensor, levels: Sequence[int]) -> Tensor:
    """Launches the backward pass on flat latents (N, D)."""
    if latents.dtype == torch.float64:
        return elementwise.fsq_backward(gradient, latents, levels)
    num_latents, dim = latents.shape
    gradient_in = torch.empty(num_latents, dim, dtype=latents.dtype, device=latents.device)
    if num_latents == 0:
        return gradient_in
    of = _constants(latents, levels)
    rows, width = block(dim)
    with torch.cuda.device_of(latents):
        fsq_backward_kernel[(triton.cdiv(num_latents, rows),)](
            gradient,
            latents,
            of.shift,
            of.reach / of.half_widths,
            gradient_in,
            num_latents,
            *latents.stride(),
            *gradient.stride(),
            DIM=dim,
            BLOCK_ROWS=rows,
            BLOCK_CHANNELS=width,
        )
    return gradient_in
