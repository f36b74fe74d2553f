"""Small tokenizers with weights, for what needs more than a spec."""

from __future__ import annotations

import torch

from vistok.backbones import ConvDecoder, ConvEncoder
from vistok.quantizers import VQ, Quantizer
from vistok.spec import ImagePolicy
from vistok.tokenizer import Tokenizer

SIZE = 32


def small_tokenizer(quantizer: Quantizer | None = None, **options) -> Tokenizer:
    """4 x 4 tokens of an image of 32 x 32 pixels."""
    torch.manual_seed(0)
    quantizer = quantizer if quantizer is not None else VQ(codebook_size=32, dim=4)
    size = {"channels": 8, "multipliers": (1,), "num_res_blocks": 1, "patch": 8}
    tokenizer = Tokenizer(
        ConvEncoder(dim=quantizer.dim_in, **size),
        quantizer,
        ConvDecoder(dim=quantizer.dim, **size),
        image=ImagePolicy(size=(SIZE, SIZE)),
        **options,
    )
    # codes where the latents are, so that a picture has more than one of them
    tokenizer.prepare(torch.rand(8, 3, SIZE, SIZE) * 2 - 1)
    return tokenizer.eval()
