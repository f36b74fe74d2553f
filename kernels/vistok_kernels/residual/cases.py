"""The residual and product kernels as ``vistok_kernels.ahead`` compiles them."""

from __future__ import annotations

from collections.abc import Iterator

from vistok_kernels.case import NUM_LATENTS, Case

_MODULE = "vistok_kernels.residual.kernel"
_PARTS = 4


def cases(dim: int, codebook_size: int) -> Iterator[Case]:
    """Four stages or groups; wide residuals have a kernel of their own."""
    from vistok_kernels.residual.kernel import WIDEST, residual_tile
    from vistok_kernels.vq.kernel import search_tile

    table = {"codes": "*fp32", "half_norms": "*fp32", "center": "*fp32", "scale": "*fp32", "indices": "*i64"}
    strides = {"stride_row": "i32", "stride_channel": "i32"}
    latents, codes = NUM_LATENTS * dim, _PARTS * codebook_size * dim
    written, flops = 8 * NUM_LATENTS * _PARTS, 2 * NUM_LATENTS * codes
    tile = residual_tile(dim)
    narrow = dim <= WIDEST
    tensors = {"latents": "*bf16"} if narrow else {"left": "*fp32"}
    tensors |= {"codebooks": "*fp32"} | table | {"quantized": "*fp32"}
    counts = {"num_latents": "i32", "num_codes": "i32", "num_codebooks": "i32"}
    yield Case(
        _MODULE, "residual_codes_kernel" if narrow else "wide_residual_codes_kernel", dim, "",
        tensors | counts | (strides if narrow else {}),
        {"DIM": dim, "BLOCK_ROWS": tile.rows, "BLOCK_CODES": tile.codes, "BLOCK_CHANNELS": tile.channels},
        {"num_warps": tile.num_warps, "num_stages": tile.num_stages},
        (*tensors, "num_latents", "num_codes"), ("stride_channel",) if narrow else (),
        (6 if narrow else 8) * latents + 4 * codes + written, flops,
    )  # fmt: skip
    tile = search_tile(dim)
    tensors = {"latents": "*bf16"} | table
    counts = {"num_latents": "i32", "num_codes": "i32", "num_groups": "i32"}
    yield Case(
        _MODULE, "product_codes_kernel", dim, "", tensors | counts | strides,
        {"DIM": dim, "BLOCK_ROWS": tile.rows, "BLOCK_CODES": tile.codes, "BLOCK_CHANNELS": tile.channels},
        {"num_warps": tile.num_warps, "num_stages": tile.num_stages},
        (*tensors, "num_latents", "num_codes"), ("stride_channel",),
        2 * latents * _PARTS + 4 * codes + written, flops,
    )  # fmt: skip
