"""The multi-scale kernel as ``vistok_kernels.ahead`` compiles it."""

from __future__ import annotations

from collections.abc import Iterator

from vistok_kernels.case import NUM_LATENTS, Case

_MODULE = "vistok_kernels.multi_scale.kernel"
# those of VAR at 256 px
_SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


def cases(dim: int, codebook_size: int) -> Iterator[Case]:
    """Images of 16 x 16 latents on ten scales, with convolutions and without; nothing for dims that take a few launches a scale."""
    from vistok_kernels.multi_scale.kernel import INNER, MOST_REGISTERS, WIDEST, multi_scale_tile

    if dim > WIDEST:
        return
    tile = multi_scale_tile(dim)
    names = "codebook codes half_norms center scale weight bias table"
    tensors = {"latents": "*bf16"} | dict.fromkeys(names.split(), "*fp32")
    tensors |= {"plan": "*i32", "indices": "*i64"}
    tensors |= dict.fromkeys(("compared", "grown", "quantized", "errors"), "*fp32")
    counts = dict.fromkeys(("height", "width", "num_tokens", "num_codes", "num_scales"), "i32")
    strides = dict.fromkeys(("stride_image", "stride_row", "stride_column", "stride_channel"), "i32")
    cells = _SCALES[-1] ** 2
    batch, tokens = NUM_LATENTS // cells, sum(side**2 for side in _SCALES)
    num_bytes = (2 + 4) * NUM_LATENTS * dim + batch * tokens * (4 * dim + 8) + 4 * codebook_size * dim
    search, resampling = 2 * batch * tokens * codebook_size * dim, 4 * batch * tokens * cells * dim
    convolving = 18 * NUM_LATENTS * len(_SCALES) * dim**2
    for smoothed in (True, False):
        yield Case(
            _MODULE, "multi_scale_codes_kernel", dim, "smoothed" if smoothed else "",
            tensors | counts | strides,
            {"DIM": dim, "WIDTH": -(-dim // tile.channels) * tile.channels, "SMOOTHED": smoothed, "BLOCK_ROWS": tile.rows, "BLOCK_CODES": tile.codes,
             "BLOCK_CHANNELS": tile.channels, "BLOCK_INNER": INNER},
            {"num_warps": tile.num_warps, "num_stages": tile.num_stages, "maxnreg": MOST_REGISTERS},
            (*tensors, "num_codes"), ("stride_channel",),
            num_bytes, search + resampling + convolving * smoothed, smoothed,
        )  # fmt: skip
