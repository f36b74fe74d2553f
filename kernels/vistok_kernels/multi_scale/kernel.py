"""The multi-scale search in Triton, all scales in one launch. It never waits for the device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from vistok_kernels.multi_scale import blocked
from vistok_kernels.multi_scale.blocked import Convolutions, Five
from vistok_kernels.multi_scale.resampling import Grid, matrices
from vistok_kernels.vq.kernel import Tile, processors, search, search_rows
from vistok_kernels.vq.prepared import prepare

# Channels, beyond which the program does not fit the registers of every GPU.
WIDEST = 256
# Beyond it the dense products of a position with all cells cost as much as the search.
MOST_CELLS = 1024
# Positions times codes of one image: up to it a program of its own takes about as long as the launches it saves.
_SMALL = 2**22
# Cells or positions that one product of shrinking or growing sums over.
INNER = 16
# Of a thread: left to itself NVIDIA's assembler spills a few to fit two programs where there is rarely work for two.
MOST_REGISTERS = 255


def multi_scale_tile(dim: int) -> Tile:
    """The tile of all phases; small, as coarse scales have few positions."""
    return Tile(64, 64, 32 if 16 < dim <= 32 else 16, 8, 2)


def one_launch(batch: int, num_tokens: int, num_cells: int, num_codes: int, num_processors: int) -> bool:
    """Whether a program an image is the better choice than a few launches a scale, over which images are spread."""
    return num_cells <= MOST_CELLS and (2 * batch >= num_processors or num_tokens * num_codes <= _SMALL)


@triton.jit
def _shares(table, rows, columns, to_row, to_column, from_row, from_column, num_rows, num_columns, mask):
    """What each cell of a grid gives to each of another, (R, I): the product of a row's and a column's share.

    At ``rows`` and ``columns`` of the table there is a line of shares for every row and column that is given to.
    """
    of_rows = table + rows + to_row[:, None] * num_rows + from_row[None, :]
    of_columns = table + columns + to_column[:, None] * num_columns + from_column[None, :]
    return tl.load(of_rows, mask=mask, other=0.0) * tl.load(of_columns, mask=mask, other=0.0)


@triton.jit
def _add(step, quantized, latents, mask):
    """Adds a step to the sum; gives what it leaves of the latents, 0 outside the mask."""
    total = tl.load(quantized, mask=mask, other=0.0) + step
    tl.store(quantized, total, mask=mask)
    return tl.where(mask, tl.load(latents, mask=mask).to(tl.float32) - total, 0.0)


@triton.jit
def multi_scale_codes_kernel(
    latents,
    codebook,
    codes,
    half_norms,
    center,
    scale,
    weight,
    bias,
    table,
    plan,
    indices,
    compared,
    grown,
    quantized,
    errors,
    height,
    width,
    num_tokens,
    num_codes,
    num_scales,
    stride_image,
    stride_row,
    stride_column,
    stride_channel,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    SMOOTHED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CODES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_INNER: tl.constexpr,
):
    """A program takes an image through all scales; its sum, what it searched and its grown codes pass through L2.

    Threads of a program read what others wrote, hence a barrier between the phases of a scale: shrink and search, grow,
    smooth and add. ``quantized`` must start at 0; rows of ``grown`` are WIDTH long, whole blocks of channels. A NaN spreads over the image with the first product of shrinking.

    Floor: 4 D (2 B P + B N + K) + 8 B N bytes, P = h w, each input once from memory; 2 B N K D flops of the search, 18
    B S P D^2 of the convolutions. Shrinking and growing as dense products take 4 B N P D more, for VAR's 256 cells and
    4096 codes an eighth of the search.
    """
    image = tl.program_id(0).to(tl.int64)
    num_cells = height * width
    latents += image * stride_image
    indices += image * num_tokens
    compared += image * num_tokens * DIM
    grown += image * num_cells * WIDTH
    quantized += image * num_cells * DIM
    block = tl.arange(0, BLOCK_ROWS)
    inner = tl.arange(0, BLOCK_INNER)
    some_channels = tl.arange(0, BLOCK_CHANNELS)
    for number in range(0, num_scales):
        entry = plan + 8 * number
        scale_height = tl.load(entry)
        scale_width = tl.load(entry + 1)
        first = tl.load(entry + 2)
        num_positions = scale_height * scale_width
        by_rows = tl.load(entry + 4)
        by_columns = tl.load(entry + 5)
        for start in range(0, num_positions, BLOCK_ROWS):
            positions = start + block
            row_mask = positions < num_positions
            for channel in range(0, DIM, BLOCK_CHANNELS):
                channels = channel + some_channels
                present = channels < DIM
                shrunk = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), tl.float32)
                for cell in tl.range(0, num_cells, BLOCK_INNER, num_stages=1):
                    cells = cell + inner
                    inside = cells < num_cells
                    share = _shares(
                        table,
                        by_rows,
                        by_columns,
                        positions // scale_width,
                        positions % scale_width,
                        cells // width,
                        cells % width,
                        height,
                        width,
                        row_mask[:, None] & inside[None, :],
                    )
                    at = cells // width * stride_row + cells % width * stride_column
                    mask = inside[:, None] & present[None, :]
                    left = tl.load(latents + at[:, None] + channels[None, :] * stride_channel, mask=mask).to(
                        tl.float32
                    )
                    left -= tl.load(
                        quantized + cells[:, None] * DIM + channels[None, :], mask=mask, other=0.0
                    )
                    shrunk = tl.dot(share, tl.where(mask, left, 0.0), shrunk, input_precision="ieee")
                slots = (first + positions)[:, None] * DIM + channels[None, :]
                tl.store(compared + slots, shrunk, mask=row_mask[:, None] & present[None, :])
            tl.debug_barrier()
            _, found = search_rows(
                compared + (first + positions) * DIM,
                1,
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
            tl.store(indices + first + positions, found.to(tl.int64), mask=row_mask)
        tl.debug_barrier()
        by_rows = tl.load(entry + 6)
        by_columns = tl.load(entry + 7)
        error = 0.0
        for start in range(0, num_cells, BLOCK_ROWS):
            cells = start + block
            row_mask = cells < num_cells
            at = cells // width * stride_row + cells % width * stride_column
            for channel in range(0, DIM, BLOCK_CHANNELS):
                channels = channel + some_channels
                present = channels < DIM
                step = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), tl.float32)
                for position in tl.range(0, num_positions, BLOCK_INNER, num_stages=1):
                    positions = position + inner
                    inside = positions < num_positions
                    share = _shares(
                        table,
                        by_rows,
                        by_columns,
                        cells // width,
                        cells % width,
                        positions // scale_width,
                        positions % scale_width,
                        scale_height,
                        scale_width,
                        row_mask[:, None] & inside[None, :],
                    )
                    chosen = tl.load(indices + first + positions, mask=inside, other=0)
                    named = tl.maximum(chosen, 0)[:, None] * DIM + channels[None, :]
                    code = tl.load(codebook + named, mask=inside[:, None] & present[None, :], other=0.0)
                    code = tl.where((chosen >= 0)[:, None], code, float("nan"))
                    step = tl.dot(share, code, step, input_precision="ieee")
                slots = cells[:, None] * DIM + channels[None, :]
                mask = row_mask[:, None] & present[None, :]
                if SMOOTHED:
                    tl.store(grown + cells[:, None] * WIDTH + channels[None, :], step, mask=row_mask[:, None])
                else:
                    latent_ptrs = latents + at[:, None] + channels[None, :] * stride_channel
                    left = _add(step, quantized + slots, latent_ptrs, mask)
                    error += tl.sum(tl.sum(left * left, axis=1), axis=0)
        tl.debug_barrier()
        if SMOOTHED:
            convolution = tl.load(entry + 3).to(tl.int64)
            for start in range(0, num_cells, BLOCK_ROWS):
                cells = start + block
                row_mask = cells < num_cells
                at = cells // width * stride_row + cells % width * stride_column
                for channel in range(0, DIM, BLOCK_CHANNELS):
                    channels = channel + some_channels
                    present = channels < DIM
                    shift = tl.load(bias + convolution * WIDTH + channels)
                    step = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), tl.float32) + shift[None, :]
                    for tap in tl.range(0, 9, num_stages=1):
                        row = cells // width + (tap // 3 - 1)
                        column = cells % width + (tap % 3 - 1)
                        near = row_mask & (row >= 0) & (row < height) & (column >= 0) & (column < width)
                        neighbours = (row * width + column)[:, None] * WIDTH
                        kernel = weight + (convolution * 9 + tap) * WIDTH * WIDTH
                        for source in tl.range(0, WIDTH, BLOCK_CHANNELS, num_stages=1):
                            sources = source + some_channels
                            values = tl.load(
                                grown + neighbours + sources[None, :], mask=near[:, None], other=0.0
                            )
                            taps = tl.load(kernel + sources[:, None] * WIDTH + channels[None, :])
                            step = tl.dot(values, taps, step, input_precision="ieee")
                    slots = cells[:, None] * DIM + channels[None, :]
                    mask = row_mask[:, None] & present[None, :]
                    latent_ptrs = latents + at[:, None] + channels[None, :] * stride_channel
                    left = _add(step, quantized + slots, latent_ptrs, mask)
                    error += tl.sum(tl.sum(left * left, axis=1), axis=0)
            tl.debug_barrier()
        tl.store(errors + image * num_scales + number, error)


@lru_cache(maxsize=16)
def _scales(
    grids: tuple[Grid, ...], assigned: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """The table of shares (L,) and what the kernel reads of each scale (S, 8); kept, as making them takes longer than a launch.

    A scale's numbers: h_k, w_k, its first token, its convolution, and where in the table are its shares of shrinking by
    rows and by columns and of growing by rows and by columns.
    """
    pieces, plan, first, end = [], [], 0, 0
    for number, grid in enumerate(grids):
        rows, columns = (
            matrices(size, finest, torch.float32, torch.device("cpu"))
            for size, finest in zip(grid, grids[-1], strict=True)
        )
        starts = []
        for piece in (rows[0], columns[0], rows[1], columns[1]):
            starts.append(end)
            pieces.append(piece.flatten())
            end += piece.numel()
        plan.append([*grid, first, assigned[number] if assigned else 0, *starts])
        first += grid[0] * grid[1]
    with torch.inference_mode(False):
        return torch.cat(pieces).to(device), torch.tensor(plan, dtype=torch.int32, device=device)


def _taps(convolutions: Convolutions, more: int) -> tuple[Tensor, Tensor]:
    """Weights tap by tap from input to output channels (C, 9, D', D') and biases (C, D'), with ``more`` channels of zeros."""
    taps = convolutions.weight.flatten(3).movedim(3, 1).mT
    return F.pad(taps, (0, more, 0, more)).contiguous(), F.pad(convolutions.bias, (0, more)).contiguous()


def multi_scale_codes(
    latents: Tensor,
    codebook: Tensor,
    convolutions: Convolutions,
    grids: Sequence[Grid],
    metric: str,
    alone: bool | None = None,
) -> Five:
    """Launches all scales at once; see ``vistok_kernels.multi_scale_codes``. ``alone``, one launch, is for tests."""
    batch, height, width, dim = latents.shape
    ready = prepare(codebook, metric)
    num_codes, num_cells = len(codebook), height * width
    num_tokens = sum(rows * columns for rows, columns in grids)
    if alone is None:
        alone = dim <= WIDEST and one_launch(
            batch, num_tokens, num_cells, num_codes, processors(latents.device)
        )
    if torch.float64 in (latents.dtype, codebook.dtype) or not alone or batch == 0:
        return blocked.multi_scale_codes(latents, codebook, convolutions, grids, partial(search, ready))
    codebook = codebook.contiguous()
    table, plan = _scales(tuple(grids), tuple(convolutions.assigned), latents.device)
    indices = torch.empty(batch, num_tokens, dtype=torch.int64, device=latents.device)
    compared = torch.empty(batch, num_tokens, dim, device=latents.device)
    quantized = torch.zeros(batch, height, width, dim, device=latents.device)
    errors = torch.empty(batch, len(grids), device=latents.device)
    tile = multi_scale_tile(dim)
    padded = triton.cdiv(dim, tile.channels) * tile.channels
    smoothed = len(convolutions.weight) > 0
    weight, bias, grown = codebook, codebook, quantized
    if smoothed:
        weight, bias = _taps(convolutions, padded - dim)
        grown = torch.empty(batch, num_cells, padded, device=latents.device)
    with torch.cuda.device_of(latents):
        multi_scale_codes_kernel[(batch,)](
            latents,
            codebook,
            ready.codes,
            ready.half_norms,
            ready.center,
            ready.scale,
            weight,
            bias,
            table,
            plan,
            indices,
            compared,
            grown,
            quantized,
            errors,
            height,
            width,
            num_tokens,
            num_codes,
            len(grids),
            *latents.stride(),
            DIM=dim,
            WIDTH=padded,
            SMOOTHED=smoothed,
            BLOCK_ROWS=tile.rows,
            BLOCK_CODES=tile.codes,
            BLOCK_CHANNELS=tile.channels,
            BLOCK_INNER=INNER,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
            **({} if torch.version.hip else {"maxnreg": MOST_REGISTERS}),
        )
    distances = errors.sum(dim=0)
    return indices, quantized, compared, distances, distances.clone()
