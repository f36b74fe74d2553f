import math

import pytest
import torch
from torch import nn

from vistok import Tokenizer
from vistok.backbones import ConvDecoder, ConvEncoder, Linear
from vistok.errors import RecipeError
from vistok.losses import adaptive_weight, encoder_layer
from vistok.quantizers import FSQ


def test_adaptive_weight_is_the_ratio_of_gradient_norms():
    last = torch.tensor([3.0, 4.0], requires_grad=True)
    weight = adaptive_weight((2 * last).sum(), -(0.5 * last).sum(), last)
    assert weight.item() == pytest.approx(2 * math.sqrt(2) / (0.5 * math.sqrt(2) + 1e-4))
    assert not weight.requires_grad


def test_adaptive_weight_stops_at_ten_thousand():
    last = torch.tensor([1.0], requires_grad=True)
    assert adaptive_weight(1e6 * last.sum(), 0 * last.sum(), last).item() == 1e4


def make(project_in: nn.Module | None = None) -> Tokenizer:
    size = {"channels": 8, "multipliers": (1, 1), "num_res_blocks": 1}
    dim = 6 if project_in is not None else 2
    return Tokenizer(ConvEncoder(dim, **size), FSQ((4, 3)), ConvDecoder(2, **size), project_in)


def test_the_encoders_layer_is_the_last_before_the_quantizer():
    tokenizer = make()
    assert encoder_layer(tokenizer) is tokenizer.encoder.conv_out.weight
    tokenizer = make(Linear(6, 2))
    assert encoder_layer(tokenizer) is tokenizer.project_in.weight


def test_a_frozen_encoder_has_no_layer_to_compare_at():
    tokenizer = make()
    tokenizer.encoder.requires_grad_(False)
    with pytest.raises(RecipeError, match="the encoder is frozen: set adaptive: false"):
        encoder_layer(tokenizer)
