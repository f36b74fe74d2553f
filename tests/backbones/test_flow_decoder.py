from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vistok.backbones import FlowDecoder
from vistok.recorded import build

SMALL: dict[str, Any] = {"channels": 8, "multipliers": (1, 2), "num_res_blocks": 1, "num_steps": 2}


def decoder(**options: Any) -> FlowDecoder:
    torch.manual_seed(0)
    return FlowDecoder(6, **{**SMALL, **options}).eval()


@pytest.mark.parametrize(
    ("patch", "multipliers", "factor"), [(1, (1, 2), 2), (2, (1, 1, 2), 8), (4, (1,), 4)]
)
def test_images_have_the_sides_that_the_factor_says(
    patch: int, multipliers: tuple[int, ...], factor: int
) -> None:
    net = decoder(patch=patch, multipliers=multipliers)
    assert net.factor == factor
    quantized = torch.randn(2, 3, 5, 6)
    assert net(quantized).shape == (2, 3, 3 * factor, 5 * factor)
    assert net.loss(quantized, torch.rand(2, 3, 3 * factor, 5 * factor)).keys() == {"flow"}


def test_equal_tokens_give_equal_pictures_in_a_batch_as_alone() -> None:
    net, quantized = decoder(), torch.randn(3, 4, 4, 6)
    together = net(quantized)
    torch.testing.assert_close(net(quantized[1:2])[0], together[1], rtol=1e-4, atol=1e-5)
    torch.manual_seed(1)
    assert torch.equal(net(quantized), together)
    net.seed = 7
    assert not torch.allclose(net(quantized), together)


def test_tokens_and_time_matter() -> None:
    net, quantized, image = decoder(), torch.randn(1, 4, 4, 6), torch.randn(1, 3, 16, 16)
    here = net.velocity(image, torch.zeros(1), quantized)
    assert not torch.allclose(here, net.velocity(image, torch.ones(1), quantized))
    assert not torch.allclose(here, net.velocity(image, torch.zeros(1), -quantized))


def test_the_loss_trains_every_weight_and_reaches_the_tokens() -> None:
    net = decoder().train()
    quantized = torch.randn(2, 4, 4, 6, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = net.loss(quantized, torch.rand(2, 3, 16, 16))["flow"]
    loss.backward()
    assert loss.dtype == torch.float32 and quantized.grad is not None
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_the_loss_is_drawn_in_training_and_fixed_in_evaluation() -> None:
    net, quantized, image = decoder(), torch.randn(2, 4, 4, 6), torch.rand(2, 3, 16, 16)
    assert torch.equal(net.loss(quantized, image)["flow"], net.loss(quantized, image)["flow"])
    net.train()
    assert not torch.equal(net.loss(quantized, image)["flow"], net.loss(quantized, image)["flow"])


def test_a_flow_of_straight_lines_is_followed_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    net, target = decoder(num_steps=5), torch.rand(1, 3, 16, 16)

    def straight(image: Tensor, time: Tensor, quantized: Tensor) -> Tensor:
        return (target - image) / (1 - time)[:, None, None, None]

    monkeypatch.setattr(net, "velocity", straight)
    torch.testing.assert_close(net(torch.zeros(1, 4, 4, 6)), target)


def test_it_learns_two_pictures() -> None:
    net = decoder(channels=16).train()
    quantized = torch.randn(2, 2, 2, 6)
    images = torch.rand(2, 3, 8, 8).round() * 1.6 - 0.8
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(100):
        loss = net.loss(quantized.repeat(8, 1, 1, 1), images.repeat(8, 1, 1, 1))["flow"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval().num_steps = 8
    with torch.no_grad():
        drawn = net(quantized)
    right, wrong = (drawn - images).square().mean(), (drawn - images.flip(0)).square().mean()
    assert float(right) < 0.5 * float(wrong)


def test_the_config_builds_the_same_decoder() -> None:
    net, quantized = decoder(), torch.randn(1, 2, 3, 6)
    again = build(net.to_config(), {"FlowDecoder": FlowDecoder}).eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(net(quantized), again(quantized))


def test_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 1, they are \(1, 2\) and 0"):
        decoder(num_steps=0)


def test_the_compiled_decoder_draws_the_same() -> None:
    net, quantized = decoder(multipliers=(1,), num_steps=1), torch.randn(1, 2, 2, 6)
    torch.testing.assert_close(torch.compile(net, backend="eager")(quantized), net(quantized))
