"""Attention over a codebook in Triton: programs own a block of latents or of codes and stream a part of the other."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl


class Tile(NamedTuple):
    """How one program is cut: latents x codes, channels of one step of the scores, channels of the result it owns.

    ``registers`` is what NVIDIA's assembler may give a thread: left to itself it spills a few to reach a rounder number.
    """

    rows: int
    codes: int
    channels: int
    out: int
    num_warps: int
    num_stages: int
    registers: int

    def options(self, has_limit: bool) -> dict[str, int]:
        """What a launch takes beside its arguments; AMD's compiler knows no limit of registers."""
        limit = {"maxnreg": self.registers} if has_limit else {}
        return {"num_warps": self.num_warps, "num_stages": self.num_stages} | limit


def tile(dim: int, owner: str) -> Tile:
    """The tile for ``dim`` channels of a program that owns ``latents``, ``codes``, or latents of which it wants ``means``.

    No spills on any target of ``ahead``: products of float32 keep whole rows of what streams past in registers, so that
    side is the shorter one, and small dims want more registers for each thread than two warps more would leave.
    """
    width = max(16, triton.next_power_of_2(dim))
    if owner == "codes":
        return Tile(32, 32, 16, min(64, width), 4, 2, 248)
    if owner == "latents" and width <= 32:
        return Tile(64, 32, 16, width, 4, 2, 255)
    return Tile(64, 32, 16, min(64, width), 8, 2, 128)


@triton.jit
def _scores(
    queries,
    codebook,
    gain,
    bias,
    rows,
    codes,
    row_mask,
    code_mask,
    DIM: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CODES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Inner products of a tile, (rows, codes), and the scores, -inf where there is no code."""
    product = _products(
        queries, codebook, rows, codes, row_mask, code_mask, DIM, BLOCK_ROWS, BLOCK_CODES, BLOCK_CHANNELS
    )
    scores = product
    if HAS_GAIN:
        scores = scores * tl.load(gain + codes, mask=code_mask, other=0.0)[None, :]
    if HAS_BIAS:
        scores = scores + tl.load(bias + codes, mask=code_mask, other=0.0)[None, :]
    return product, tl.where(code_mask[None, :], scores, float("-inf"))


@triton.jit
def _products(
    left,
    right,
    rows,
    codes,
    row_mask,
    code_mask,
    DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CODES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    product = tl.zeros((BLOCK_ROWS, BLOCK_CODES), tl.float32)
    for channel in range(0, DIM, BLOCK_CHANNELS):
        a = _block(left, rows, row_mask, channel, DIM, BLOCK_CHANNELS)
        b = _block(right, codes, code_mask, channel, DIM, BLOCK_CHANNELS)
        product = tl.dot(a, tl.trans(b), product, input_precision="ieee")
    return product


@triton.jit
def _block(table, rows, row_mask, channel, DIM: tl.constexpr, WIDTH: tl.constexpr):
    """Some channels of some rows of a contiguous table, 0 outside of it."""
    at = channel + tl.arange(0, WIDTH)
    mask = row_mask[:, None] & (at < DIM)[None, :]
    return tl.load(table + rows.to(tl.int64)[:, None] * DIM + at[None, :], mask=mask, other=0.0)


@triton.jit
def attention_kernel(
    queries,
    codebook,
    gain,
    bias,
    highest,
    total,
    indices,
    values,
    num_latents,
    num_codes,
    codes_per_split,
    DIM: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_VALUES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CODES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """Online softmax of a block of latents over a split of the codes, and a chunk of the channels of its values.

    Floor: 4 D (2 N + K) + 12 N bytes, 4 N K D flops. Each chunk of BLOCK_OUT channels computes the scores anew.
    """
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_mask = rows < num_latents
    split, chunk = tl.program_id(1), tl.program_id(2)
    best = tl.full((BLOCK_ROWS,), float("-inf"), tl.float32)
    found = tl.zeros((BLOCK_ROWS,), tl.int32)
    amount = tl.zeros((BLOCK_ROWS,), tl.float32)
    mixed = tl.zeros((BLOCK_ROWS, BLOCK_OUT), tl.float32)
    first = split * codes_per_split
    last = tl.minimum(first + codes_per_split, num_codes)
    for start in range(first, last, BLOCK_CODES):
        codes = start + tl.arange(0, BLOCK_CODES)
        code_mask = codes < last
        product, scores = _scores(
            queries, codebook, gain, bias, rows, codes, row_mask, code_mask,
            DIM, HAS_GAIN, HAS_BIAS, BLOCK_ROWS, BLOCK_CODES, BLOCK_CHANNELS,
        )  # fmt: skip
        # a NaN has no place in a maximum; the products bring it back below
        scores = tl.where(scores == scores, scores, 0.0)
        highest_here, position = tl.max(scores, axis=1, return_indices=True)
        # strictly better only, so that of equal scores the lowest index stays
        found = tl.where(highest_here > best, start + position, found)
        new = tl.maximum(best, highest_here)
        shrink = tl.exp(best - new)
        weights = tl.exp(scores - new[:, None])
        # Inf times 0 is NaN: a score of -Inf would pass for an unlikely code
        amount = amount * shrink + tl.sum(weights + product * 0.0, axis=1)
        if HAS_VALUES:
            table = _block(codebook, codes, code_mask, chunk * BLOCK_OUT, DIM, BLOCK_OUT)
            mixed = tl.dot(weights, table, mixed * shrink[:, None], input_precision="ieee")
        best = new
    at = split.to(tl.int64) * num_latents + rows
    tl.store(highest + at, best, mask=row_mask & (chunk == 0))
    tl.store(total + at, amount, mask=row_mask & (chunk == 0))
    tl.store(indices + at, found.to(tl.int64), mask=row_mask & (chunk == 0))
    if HAS_VALUES:
        channels = chunk * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
        mask = row_mask[:, None] & (channels < DIM)[None, :]
        tl.store(values + at[:, None] * DIM + channels[None, :], mixed, mask=mask)


@triton.jit
def row_means_kernel(
    queries,
    codebook,
    gain,
    bias,
    logsumexp,
    weights,
    means,
    num_latents,
    num_codes,
    codes_per_split,
    DIM: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ENTROPY: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CODES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Under each latent's distribution the mean of -log p, or of the codes' weights. Floor: 4 D (N + K) bytes, 2 N K D flops."""
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_mask = rows < num_latents
    split = tl.program_id(1)
    shift = tl.load(logsumexp + rows, mask=row_mask, other=0.0)
    sums = tl.zeros((BLOCK_ROWS,), tl.float32)
    first = split * codes_per_split
    last = tl.minimum(first + codes_per_split, num_codes)
    for start in range(first, last, BLOCK_CODES):
        codes = start + tl.arange(0, BLOCK_CODES)
        code_mask = codes < last
        _, scores = _scores(
            queries, codebook, gain, bias, rows, codes, row_mask, code_mask,
            DIM, HAS_GAIN, HAS_BIAS, BLOCK_ROWS, BLOCK_CODES, BLOCK_CHANNELS,
        )  # fmt: skip
        logarithms = scores - shift[:, None]
        if ENTROPY:
            each = tl.where(code_mask[None, :], -logarithms, 0.0)
        else:
            each = tl.load(weights + codes, mask=code_mask, other=0.0)[None, :]
        sums += tl.sum(tl.exp(logarithms) * each, axis=1)
    tl.store(means + split.to(tl.int64) * num_latents + rows, sums, mask=row_mask)


@triton.jit
def code_sums_of_probabilities_kernel(
    queries,
    codebook,
    gain,
    bias,
    logsumexp,
    sums,
    num_latents,
    num_codes,
    rows_per_split,
    DIM: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CODES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """The sum over latents of each code's probability. Floor: 4 D (N + K) + 4 N + 4 K bytes, 2 N K D flops."""
    codes = tl.program_id(0) * BLOCK_CODES + tl.arange(0, BLOCK_CODES)
    code_mask = codes < num_codes
    split = tl.program_id(1)
    total = tl.zeros((BLOCK_CODES,), tl.float32)
    first = split * rows_per_split
    last = tl.minimum(first + rows_per_split, num_latents)
    for start in range(first, last, BLOCK_ROWS):
        rows = start + tl.arange(0, BLOCK_ROWS)
        row_mask = rows < last
        _, scores = _scores(
            queries, codebook, gain, bias, rows, codes, row_mask, code_mask,
            DIM, HAS_GAIN, HAS_BIAS, BLOCK_ROWS, BLOCK_CODES, BLOCK_CHANNELS,
        )  # fmt: skip
        # a latent that is not there has probability 0
        shift = tl.load(logsumexp + rows, mask=row_mask, other=float("inf"))
        total += tl.sum(tl.exp(scores - shift[:, None]), axis=0)
    tl.store(sums + split.to(tl.int64) * num_codes + codes, total, mask=code_mask)


@triton.jit
def _slopes(
    queries,
    codebook,
    gain,
    bias,
    logsumexp,
    row,
    value,
    logarithm,
    column,
    rows,
    codes,
    row_mask,
    code_mask,
    DIM: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_VALUE: tl.constexpr,
    HAS_LOGARITHM: tl.constexpr,
    HAS_COLUMN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CODES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Inner products, probabilities, and the gradient of the scores (``blocked.Upstream``) of a tile, (rows, codes)."""
    product, scores = _scores(
        queries, codebook, gain, bias, rows, codes, row_mask, code_mask,
        DIM, HAS_GAIN, HAS_BIAS, BLOCK_ROWS, BLOCK_CODES, BLOCK_CHANNELS,
    )  # fmt: skip
    # a latent that is not there has probability 0
    logarithms = scores - tl.load(logsumexp + rows, mask=row_mask, other=float("inf"))[:, None]
    probabilities = tl.exp(logarithms)
    slopes = tl.zeros_like(product) + tl.load(row + rows, mask=row_mask, other=0.0)[:, None]
    if HAS_LOGARITHM:
        present = row_mask[:, None] & code_mask[None, :]
        factor = tl.load(logarithm + rows, mask=row_mask, other=0.0)[:, None]
        slopes += factor * tl.where(present, logarithms, 0.0)
    if HAS_COLUMN:
        slopes += tl.load(column + codes, mask=code_mask, other=0.0)[None, :]
    if HAS_VALUE:
        slopes += _products(
            value, codebook, rows, codes, row_mask, code_mask, DIM, BLOCK_ROWS, BLOCK_CODES, BLOCK_CHANNELS
        )
    return product, probabilities, probabilities * slopes


@triton.jit
def queries_backward_kernel(
    queries,
    codebook,
    gain,
    bias,
    logsumexp,
    row,
    value,
    logarithm,
    column,
    gradient,
    num_latents,
    num_codes,
    codes_per_split,
    DIM: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_VALUE: tl.constexpr,
    HAS_LOGARITHM: tl.constexpr,
    HAS_COLUMN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CODES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """Gradient of a block of latents from a split of the codes. Floor: 4 D (3 N + K) bytes, 6 N K D flops with values."""
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_mask = rows < num_latents
    split, chunk = tl.program_id(1), tl.program_id(2)
    total = tl.zeros((BLOCK_ROWS, BLOCK_OUT), tl.float32)
    first = split * codes_per_split
    last = tl.minimum(first + codes_per_split, num_codes)
    for start in range(first, last, BLOCK_CODES):
        codes = start + tl.arange(0, BLOCK_CODES)
        code_mask = codes < last
        _, _, slopes = _slopes(
            queries, codebook, gain, bias, logsumexp, row, value, logarithm, column, rows, codes, row_mask, code_mask,
            DIM, HAS_GAIN, HAS_BIAS, HAS_VALUE, HAS_LOGARITHM, HAS_COLUMN, BLOCK_ROWS, BLOCK_CODES, BLOCK_CHANNELS,
        )  # fmt: skip
        if HAS_GAIN:
            slopes = slopes * tl.load(gain + codes, mask=code_mask, other=0.0)[None, :]
        table = _block(codebook, codes, code_mask, chunk * BLOCK_OUT, DIM, BLOCK_OUT)
        total = tl.dot(slopes, table, total, input_precision="ieee")
    channels = chunk * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    at = (split.to(tl.int64) * num_latents + rows)[:, None] * DIM + channels[None, :]
    tl.store(gradient + at, total, mask=row_mask[:, None] & (channels < DIM)[None, :])


@triton.jit
def codebook_backward_kernel(
    queries,
    codebook,
    gain,
    bias,
    logsumexp,
    row,
    value,
    logarithm,
    column,
    gradient,
    gain_gradient,
    bias_gradient,
    num_latents,
    num_codes,
    rows_per_split,
    DIM: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_VALUE: tl.constexpr,
    HAS_LOGARITHM: tl.constexpr,
    HAS_COLUMN: tl.constexpr,
    SOFT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CODES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """Gradient of a block of codes from a split of the latents. Floor: 4 D (2 N + 2 K) bytes, 8 N K D flops with values."""
    codes = tl.program_id(0) * BLOCK_CODES + tl.arange(0, BLOCK_CODES)
    code_mask = codes < num_codes
    split, chunk = tl.program_id(1), tl.program_id(2)
    total = tl.zeros((BLOCK_CODES, BLOCK_OUT), tl.float32)
    of_gain = tl.zeros((BLOCK_CODES,), tl.float32)
    of_bias = tl.zeros((BLOCK_CODES,), tl.float32)
    first = split * rows_per_split
    last = tl.minimum(first + rows_per_split, num_latents)
    for start in range(first, last, BLOCK_ROWS):
        rows = start + tl.arange(0, BLOCK_ROWS)
        row_mask = rows < last
        product, probabilities, slopes = _slopes(
            queries, codebook, gain, bias, logsumexp, row, value, logarithm, column, rows, codes, row_mask, code_mask,
            DIM, HAS_GAIN, HAS_BIAS, HAS_VALUE, HAS_LOGARITHM, HAS_COLUMN, BLOCK_ROWS, BLOCK_CODES, BLOCK_CHANNELS,
        )  # fmt: skip
        if HAS_BIAS:
            of_bias += tl.sum(slopes, axis=0)
        if HAS_GAIN:
            of_gain += tl.sum(slopes * product, axis=0)
            slopes = slopes * tl.load(gain + codes, mask=code_mask, other=0.0)[None, :]
        moved = _block(queries, rows, row_mask, chunk * BLOCK_OUT, DIM, BLOCK_OUT)
        total = tl.dot(tl.trans(slopes), moved, total, input_precision="ieee")
        if SOFT:
            arrived = _block(value, rows, row_mask, chunk * BLOCK_OUT, DIM, BLOCK_OUT)
            total = tl.dot(tl.trans(probabilities), arrived, total, input_precision="ieee")
    channels = chunk * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    at = split.to(tl.int64) * num_codes + codes
    mask = code_mask[:, None] & (channels < DIM)[None, :]
    tl.store(gradient + at[:, None] * DIM + channels[None, :], total, mask=mask)
    if HAS_GAIN:
        tl.store(gain_gradient + at, of_gain, mask=code_mask & (chunk == 0))
    if HAS_BIAS:
        tl.store(bias_gradient + at, of_bias, mask=code_mask & (chunk == 0))
