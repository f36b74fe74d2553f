from __future__ import annotations

import pytest
import torch

from vistok.backbones import ByteTower
from vistok.backbones.text_tower import PADDING, START
from vistok.recorded import build


def tower(context: int = 32) -> ByteTower:
    torch.manual_seed(0)
    return ByteTower(dim=6, width=16, depth=2, num_heads=2, context=context).eval()


def test_captions_are_their_bytes_after_a_start() -> None:
    ids = tower().tokenize(["ab", "é", ""])
    assert ids.tolist() == [[START, 98, 99], [START, 0xC3 + 1, 0xA9 + 1], [START, PADDING, PADDING]]
    assert ids.dtype == torch.int64


def test_a_long_caption_is_cut() -> None:
    net = tower(context=4)
    assert torch.equal(net.tokenize(["abcdefgh"]), net.tokenize(["abcd"]))
    assert net(["abcdefgh"]).shape == (1, 6)


def test_padding_changes_nothing() -> None:
    net = tower()
    together = net(["a cat", "a very long caption", ""])
    alone = torch.cat([net([caption]) for caption in ("a cat", "a very long caption", "")])
    torch.testing.assert_close(together, alone)


def test_every_weight_is_trained() -> None:
    net = tower().train()
    net(["a cat", "two dogs on a lawn"]).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_the_order_of_letters_matters() -> None:
    first, second = tower()(["dog bites man", "man bites dog"])
    assert not torch.allclose(first, second)


def test_the_config_builds_the_same_tower() -> None:
    net = tower()
    again = build(net.to_config(), {"ByteTower": ByteTower}).eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(net(["a cat"]), again(["a cat"]))


def test_a_context_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="context 0 at least 1"):
        ByteTower(6, 16, 1, 2, context=0)
