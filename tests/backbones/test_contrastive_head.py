from __future__ import annotations

from typing import Literal

import pytest
import torch

from vistok.backbones import ContrastiveHead, QueryEncoder, ViTEncoder
from vistok.quantizers import Identity
from vistok.recorded import build
from vistok.tokenizer import Tokenizer

POOLS: list[Literal["mean", "attention"]] = ["mean", "attention"]


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("shape", [(3, 5), (7,), ()])
def test_an_image_becomes_one_vector_whatever_its_grid(
    pool: Literal["mean", "attention"], shape: tuple[int, ...]
) -> None:
    head = ContrastiveHead(16, 6, pool=pool, num_heads=2)
    quantized = torch.randn(2, *shape, 16)
    vectors = head(quantized)
    assert vectors.shape == (2, 1, 1, 6)
    vectors.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())
    again = build(head.to_config(), {"ContrastiveHead": ContrastiveHead})
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(quantized), vectors)


@pytest.mark.parametrize("pool", POOLS)
def test_the_order_of_positions_does_not_matter(pool: Literal["mean", "attention"]) -> None:
    head, quantized = ContrastiveHead(16, 6, pool=pool, num_heads=2), torch.randn(2, 9, 16)
    torch.testing.assert_close(head(quantized), head(quantized.flip(1)))


def test_attention_weighs_positions_and_the_mean_does_not() -> None:
    quantized = torch.randn(1, 9, 16)
    twice = torch.cat([quantized, quantized], dim=1)
    head = ContrastiveHead(16, 6, pool="attention", num_heads=2)
    torch.testing.assert_close(head(twice), head(quantized))  # a softmax, no sum


def test_another_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="not 'max'"):
        ContrastiveHead(16, 6, pool="max")  # type: ignore[arg-type]


def test_it_serves_tokens_on_a_grid_and_tokens_of_a_sequence() -> None:
    grid = ViTEncoder(8, width=16, depth=1, num_heads=2)
    sequence = QueryEncoder(
        ViTEncoder(8, width=16, depth=1, num_heads=2), num_tokens=3, width=16, depth=1, num_heads=2
    )
    for encoder in (grid, sequence):
        head = ContrastiveHead(encoder.dim, 6)
        tokenizer = Tokenizer(encoder, Identity(encoder.dim), feature_head=head).eval()
        assert tokenizer.semantic(torch.zeros(2, 3, 16, 16)).shape == (2, 1, 6)
