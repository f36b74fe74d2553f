"""What the spec says of a tokenizer is what the tokenizer gives."""

from __future__ import annotations

import json

import pytest
import torch

import vistok
from tests.quantizers.test_contract import CONCRETE
from vistok.backbones import ContrastiveHead, ConvDecoder, ConvEncoder
from vistok.quantizers import BSQ, FSQ, VQ, External, GroupedBits, Product, Quantizer, Residual
from vistok.tokenizer import Tokenizer

QUANTIZERS: dict[str, Quantizer] = {
    **{cls.__name__: cls.tiny() for cls in CONCRETE},
    "bit labels": BSQ(6, bit_labels=True),
    "product of grids": Product(FSQ((3, 3, 3)), 4),
    "product of residuals": Product(Residual(VQ(8, 4), 3), 2),
    "residual of products": Residual(Product(VQ(8, 4), 2), 3),
    "residual of grouped bits": Residual(GroupedBits(2, 3), 2, stage_scale=0.5),
}


def make(quantizer: Quantizer, head: bool = False) -> Tokenizer:
    torch.manual_seed(0)
    return Tokenizer(
        ConvEncoder(quantizer.dim_in, channels=8, multipliers=(1,), num_res_blocks=1, patch=8),
        quantizer,
        ConvDecoder(quantizer.dim, channels=8, multipliers=(1,), num_res_blocks=1, patch=8),
        feature_head=ContrastiveHead(quantizer.dim, 6) if head else None,
    ).eval()


@pytest.mark.parametrize("name", QUANTIZERS)
def test_dims_of_features_are_those_of_what_embed_gives(name):
    tokenizer = make(QUANTIZERS[name])
    encoded = tokenizer.encode(torch.rand(2, 3, 32, 32) * 2 - 1)
    features = tokenizer.spec.features
    assert tokenizer.embed(encoded).shape[2:] == (features.quantized,)
    groups = tokenizer.spec.main.num_groups
    assert tokenizer.embed(encoded, depthwise=True).shape[2:] == (groups, features.depthwise)
    assert (features.semantic, features.text) == (0, 0)


def test_a_quantizer_without_vectors_of_single_indices_says_so():
    grouped = External("GroupedResidualVQ", 8, {"groups": 2, "codebook_size": 8, "num_quantizers": 2})
    assert make(grouped).spec.features.depthwise == 0


def test_the_space_that_images_share_with_texts_has_a_dim():
    tokenizer = make(VQ(16, 4), head=True)
    features = tokenizer.spec.features
    assert features.text == features.semantic == tokenizer.semantic(torch.zeros(1, 3, 16, 16)).shape[-1] == 6


def test_a_saved_tokenizer_of_the_first_format_is_loaded_and_told_rightly(tmp_path):
    tokenizer = make(Product(VQ(8, 4), 2))
    tokenizer.save(tmp_path / "t")
    file = tmp_path / "t" / "config.json"
    config = json.loads(file.read_text())
    config["format_version"] = 1
    config["spec"]["features"]["depthwise"] = 8  # as the first format had it
    file.write_text(json.dumps(config))
    assert vistok.load(tmp_path / "t").spec.features.depthwise == 4
