"""Tiny tokenizers of every kind, and crops of a real photograph."""

import pytest
import torch

from tests.tokenizer import kinds
from vistok import Tokenizer
from vistok.backbones import ConvDecoder, ConvEncoder
from vistok.data import Photos, Tiles
from vistok.downstream.views import Chosen
from vistok.quantizers import FSQ, LFQ, VQ, Gaussian, MultiScale, Product, Residual

QUANTIZERS = {
    "vq": lambda: VQ(64, 8),
    "fsq": lambda: FSQ((8, 5, 5, 5)),
    "residual": lambda: Residual(VQ(32, 8), 3),
    "product": lambda: Product(VQ(32, 4), 2),
    "multi-scale": lambda: MultiScale(VQ(64, 8), (1, 2, 4)),
    "lfq18": lambda: LFQ(18, entropy="none"),
    "continuous": lambda: Gaussian(8),
}


@pytest.fixture(scope="session")
def photographs():
    """Pieces of 64 x 64 pixels of two photographs, china and coffee; the second is held out."""
    return Chosen(Tiles(Photos("held_out"), 64), range(0, 90, 6))


@pytest.fixture(scope="session")
def tiny_tokenizer(photographs):
    """Makes a tokenizer of 32 x 32 pixels; its codes are k-means of latents, its weights are random."""
    made = {}

    def make(kind):
        if kind not in made:
            made[kind] = kinds.make(kind) if kind in kinds.KINDS else _convolutional(kind)
            made[kind].prepare(
                torch.stack([photographs[i]["image"][:, :32, :32] for i in range(len(photographs))])
            )
        return made[kind]

    return make


def _convolutional(kind):
    torch.manual_seed(0)
    quantizer = QUANTIZERS[kind]()
    sizes = {"channels": 8, "multipliers": [1, 2], "num_res_blocks": 1, "patch": 4}
    encoder, decoder = ConvEncoder(dim=quantizer.dim_in, **sizes), ConvDecoder(dim=quantizer.dim, **sizes)
    return Tokenizer(encoder, quantizer, decoder, name=kind).eval()
