"""The vector-quantization kernels as ``vistok_kernels.ahead`` compiles them."""

from __future__ import annotations

from collections.abc import Iterator

from vistok_kernels.case import NUM_LATENTS, Case

_MODULE, _STEP = "vistok_kernels.vq.kernel", "vistok_kernels.vq.step_kernel"
_TABLE = {"latents": "*bf16", "codes": "*fp32", "half_norms": "*fp32", "center": "*fp32", "scale": "*fp32"}
_STRIDES = {"stride_row": "i32", "stride_channel": "i32"}
_CODE_STRIDES = {"stride_code": "i32", "stride_code_channel": "i32"}
_COUNTS = {"num_latents": "i32", "num_codes": "i32"}
_ONES = ("stride_channel",)
_ROWS = {"indices": "*i64", "chosen": "*fp32", "errors": "*fp32"}


def cases(dim: int, codebook_size: int) -> Iterator[Case]:
    """The search whole and in parts, the training step, and the sums; the codebook is read once from memory."""
    from vistok_kernels.vq.kernel import MERGED_ROWS, search_tile, sums_tile

    tile, narrow = search_tile(dim), sums_tile(dim)
    rows = {"DIM": dim, "BLOCK_ROWS": tile.rows}
    blocks = rows | {"BLOCK_CODES": tile.codes, "BLOCK_CHANNELS": tile.channels}
    options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages}
    latents, codes = NUM_LATENTS * dim, codebook_size * dim
    read, flops = 2 * latents + 4 * (codes + codebook_size), 2 * NUM_LATENTS * codes
    tensors = _TABLE | {"indices": "*i64"}
    yield Case(
        _MODULE, "nearest_code_kernel", dim, "", tensors | _COUNTS | _STRIDES, blocks, options,
        (*tensors, *_COUNTS), _ONES, read + 8 * NUM_LATENTS, flops,
    )  # fmt: skip
    tensors = _TABLE | {"scores": "*fp32", "indices": "*i32"}
    yield Case(
        _MODULE, "split_search_kernel", dim, "", tensors | _COUNTS | {"codes_per_split": "i32"} | _STRIDES, blocks,
        options, (*tensors, *_COUNTS, "codes_per_split"), _ONES, read + 8 * NUM_LATENTS, flops,
    )  # fmt: skip
    tensors = {"scores": "*fp32", "split_indices": "*i32", "indices": "*i64"}
    yield Case(
        _MODULE, "merge_splits_kernel", dim, "", tensors | {"num_latents": "i32", "num_splits": "i32"},
        {"BLOCK_ROWS": MERGED_ROWS}, {}, (*tensors, "num_latents"), (), 24 * NUM_LATENTS, 2 * NUM_LATENTS,
    )  # fmt: skip
    tensors = _TABLE | {"codebook": "*fp32"} | _ROWS
    yield Case(
        _STEP, "vq_step_kernel", dim, "", tensors | _COUNTS | _STRIDES | _CODE_STRIDES, blocks, options,
        (*tensors, *_COUNTS), (*_ONES, "stride_code_channel"),
        read + 4 * codes + 4 * latents + 8 * NUM_LATENTS, flops + 3 * latents,
    )  # fmt: skip
    tensors = {"latents": "*bf16", "codebook": "*fp32"} | _ROWS
    yield Case(
        _STEP, "gather_step_kernel", dim, "", tensors | {"num_latents": "i32"} | _STRIDES | _CODE_STRIDES,
        rows | {"BLOCK_CHANNELS": tile.channels}, {"num_warps": tile.num_warps}, (*tensors, "num_latents"),
        (*_ONES, "stride_code_channel"), 10 * latents + 8 * NUM_LATENTS, 3 * latents,
    )  # fmt: skip
    tensors = {"latents": "*fp32", "order": "*i64", "offsets": "*i64", "sums": "*fp32"}
    yield Case(
        _MODULE, "code_sums_kernel", dim, "", tensors | _STRIDES,
        {"DIM": dim, "BLOCK_ROWS": narrow.rows, "BLOCK_CHANNELS": narrow.channels},
        {"num_warps": narrow.num_warps, "num_stages": narrow.num_stages}, tuple(tensors), _ONES,
        4 * (latents + codes) + 8 * (NUM_LATENTS + codebook_size), latents,
    )  # fmt: skip
