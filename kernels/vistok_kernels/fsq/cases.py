"""The kernels of finite scalar quantization as ``vistok_kernels.ahead`` compiles them."""

from __future__ import annotations

from collections.abc import Iterator

from vistok_kernels.case import NUM_LATENTS, Case

_MODULE = "vistok_kernels.fsq.kernel"


def cases(dim: int, codebook_size: int) -> Iterator[Case]:
    """Forward and backward, where the dim is one of levels; there is no codebook to depend on."""
    from vistok_kernels.fsq.kernel import block

    if dim > 32:
        return
    rows, width = block(dim)
    constants = {"DIM": dim, "BLOCK_ROWS": rows, "BLOCK_CHANNELS": width}
    strides = {"num_latents": "i32", "stride_row": "i32", "stride_channel": "i32"}
    latents = NUM_LATENTS * dim
    tensors = {"latents": "*bf16"} | dict.fromkeys(("shift", "reach", "offset"), "*fp32")
    tensors |= {"half_widths": "*i64", "bases": "*i64", "quantized": "*fp32", "indices": "*i64"}
    yield Case(
        _MODULE, "fsq_kernel", dim, "", tensors | strides, constants, {},
        (*tensors, "num_latents"), ("stride_channel",), 6 * latents + 8 * NUM_LATENTS, 20 * latents,
    )  # fmt: skip
    tensors = {
        "gradient": "*fp32",
        "latents": "*bf16",
        "shift": "*fp32",
        "slope": "*fp32",
        "gradient_in": "*bf16",
    }
    strides |= {"stride_gradient_row": "i32", "stride_gradient_channel": "i32"}
    yield Case(
        _MODULE, "fsq_backward_kernel", dim, "", tensors | strides, constants, {},
        (*tensors, "num_latents"), ("stride_channel", "stride_gradient_channel"), 8 * latents, 15 * latents,
    )  # fmt: skip
