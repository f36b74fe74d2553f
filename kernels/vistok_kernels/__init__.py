"""Quantization ops, each with a PyTorch path for every device and a Triton kernel for GPUs.

An op is a ``torch.library.custom_op``; PyTorch's dispatcher picks the implementation by device, so there is no flag
to set, and ``torch.compile`` and ``torch.export`` treat each op as one opaque node. Every family is a folder:
``reference.py`` defines what is correct, ``blocked.py`` or ``elementwise.py`` is the PyTorch path, ``kernel.py`` the
Triton one. Triton is imported by the first call on a GPU and not before; without it GPUs take the PyTorch path.

``python -m vistok_kernels.ahead`` compiles all kernels for GPUs that need not be present.
"""

from vistok_kernels.attention import (
    codebook_attention,
    codebook_entropy,
    codebook_probabilities,
    index_softmax,
)
from vistok_kernels.bits import (
    bit_entropy,
    bit_indices,
    bit_probabilities,
    bits_from_indices,
    code_entropy,
    distribution_entropy,
    factorised_entropy,
    grouped_entropy,
    pack_bits,
)
from vistok_kernels.fsq import fsq, fsq_decode
from vistok_kernels.multi_scale import multi_scale_codes
from vistok_kernels.residual import product_codes, residual_codes
from vistok_kernels.vq import code_sums, nearest_code, vq_step

__all__ = [
    "bit_entropy",
    "bit_indices",
    "bit_probabilities",
    "bits_from_indices",
    "code_entropy",
    "code_sums",
    "codebook_attention",
    "codebook_entropy",
    "codebook_probabilities",
    "distribution_entropy",
    "factorised_entropy",
    "fsq",
    "fsq_decode",
    "grouped_entropy",
    "index_softmax",
    "multi_scale_codes",
    "nearest_code",
    "pack_bits",
    "product_codes",
    "residual_codes",
    "vq_step",
]
