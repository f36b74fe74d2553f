from __future__ import annotations

import pytest
import torch

from vistok.backbones.transformer import Transformer, rotate, rotation_2d


def test_attention_scores_depend_on_the_offset_of_two_positions_only() -> None:
    height, width, head_dim = 5, 6, 16
    query = torch.randn(head_dim).expand(1, 1, height * width, head_dim)
    key = torch.randn(head_dim).expand(1, 1, height * width, head_dim)
    rotation = rotation_2d(height, width, head_dim)
    scores = (rotate(query, rotation) @ rotate(key, rotation).transpose(-1, -2)).view(
        height, width, height, width
    )
    torch.testing.assert_close(scores[0, 0, 2, 3], scores[2, 1, 4, 4], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores[3, 4, 1, 5], scores[4, 0, 2, 1], rtol=1e-4, atol=1e-4)
    assert not torch.isclose(scores[0, 0, 2, 3], scores[0, 0, 3, 2], rtol=1e-4, atol=1e-4)


def test_rotation_keeps_lengths_and_leaves_the_origin() -> None:
    x = torch.randn(2, 3, 12, 8)
    turned = rotate(x, rotation_2d(3, 4, 8))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[:, :, 0], x[:, :, 0])


def test_rotation_keeps_the_dtype() -> None:
    assert rotate(torch.randn(1, 1, 4, 8).bfloat16(), rotation_2d(2, 2, 8)).dtype == torch.bfloat16


def test_without_positions_the_order_of_tokens_does_not_matter() -> None:
    plain = Transformer(16, 2, 2, rope=False).eval()
    x = torch.randn(1, 1, 6, 16)
    torch.testing.assert_close(plain(x.flip(2)), plain(x).flip(2))
    turning = Transformer(16, 2, 2, rope=True).eval()
    for block in turning.blocks:  # the initial weights are so small that positions hardly show
        torch.nn.init.normal_(block.qkv.weight)
    assert not torch.allclose(turning(x.flip(2)), turning(x).flip(2), atol=1e-4)


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="width 20 with 2 heads must be a multiple of 8"):
        Transformer(20, 1, 2)
