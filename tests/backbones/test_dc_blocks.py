from __future__ import annotations

import torch

from vistok.backbones.dc_blocks import DCDown, DCUp, LinearAttention


def test_down_and_up_start_from_a_reshaping_that_keeps_means() -> None:
    x = torch.randn(1, 8, 4, 4)
    for layer, repeats in ((DCDown(8, 16, "shuffle"), 1), (DCUp(8, 4, "conv"), 1)):
        torch.nn.init.zeros_(layer.conv.weight)
        torch.nn.init.zeros_(layer.conv.get_parameter("bias"))
        assert torch.allclose(layer(x).mean(), x.mean() * repeats, atol=1e-6)


def test_linear_attention_is_a_weighted_mean_of_values() -> None:
    """The quadratic form, written out for one head."""
    attention = LinearAttention(8, 8, ())
    x = torch.randn(1, 8, 3, 5)
    query, key, value = attention.qkv(x).flatten(2)[0].chunk(3)
    weights = key.relu().T @ query.relu()
    mixed = value @ (weights / weights.sum(0, keepdim=True))
    expected = attention.norm(attention.out(mixed.reshape(1, 8, 3, 5)))
    assert torch.allclose(attention(x), expected, atol=1e-5)
