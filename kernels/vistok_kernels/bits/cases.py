"""The bit kernels as ``vistok_kernels.ahead`` compiles them."""

from __future__ import annotations

from collections.abc import Iterator

from vistok_kernels.case import NUM_LATENTS, Case

_MODULE = "vistok_kernels.bits.kernel"
_ROW = {"num_latents": "i32", "stride_row": "i32", "stride_channel": "i32", "strength_of_one": "fp32"}


def cases(dim: int, codebook_size: int) -> Iterator[Case]:
    """Pack with entropy in one pass, and the entropies' gradient; bits have no codebook to depend on."""
    from vistok_kernels.bits.kernel import block

    if dim > 62:
        return
    rows, width = block(dim)
    blocks = {"BLOCK_ROWS": rows, "BLOCK_CHANNELS": width}
    latents = NUM_LATENTS * dim
    tensors = {"latents": "*bf16", "indices": "*i64", "entropies": "*fp32"}
    yield Case(
        _MODULE, "bit_pack_kernel", dim, "", tensors | _ROW, {"DIM": dim, "PACK": 1, "ENTROPY": 1, **blocks}, {},
        (*tensors, "num_latents"), ("stride_channel",), 2 * latents + 12 * NUM_LATENTS, 12 * latents,
    )  # fmt: skip
    tensors = {"gradient": "*fp32", "latents": "*bf16", "gradient_in": "*bf16"}
    yield Case(
        _MODULE, "bit_entropies_backward_kernel", dim, "", tensors | _ROW, {"DIM": dim, **blocks}, {},
        (*tensors, "num_latents"), ("stride_channel",), 4 * latents + 4 * NUM_LATENTS, 10 * latents,
    )  # fmt: skip
