import math

import pytest
import torch
import torch.nn.functional as F

from vistok.quantizers import Gumbel, gumbel


def test_codes_are_drawn_with_the_probabilities_of_the_logits():
    torch.manual_seed(0)
    quantizer = Gumbel(5, 2, scale=0.7).train()
    latent = torch.randn(2)
    with torch.no_grad():
        drawn = quantizer(latent.expand(1, 40_000, 2)).indices
    expected = (-0.7 * (quantizer.codebook - latent).square().sum(dim=1)).softmax(dim=0)
    shares = torch.bincount(drawn.flatten(), minlength=5) / 40_000
    # five standard deviations of a share
    torch.testing.assert_close(shares, expected.detach(), atol=5 * 0.5 / math.sqrt(40_000), rtol=0)


@pytest.mark.parametrize("hard", [True, False])
def test_the_gradient_is_that_of_the_dense_relaxation_with_the_same_noise(hard, monkeypatch):
    # blocks of 7 rows, so that several are drawn
    monkeypatch.setattr(gumbel, "_SCORES", 7 * 12)
    quantizer = Gumbel(12, 3, temperature=0.8, scale=0.5, hard=hard).train()
    latent, weight = torch.randn(1, 20, 3, requires_grad=True), torch.randn(1, 20, 3)
    torch.manual_seed(3)
    output = quantizer(latent)
    (output.quantized * weight).sum().backward()
    ours, codes = latent.grad.clone(), quantizer.codebook.grad.clone()
    latent.grad, quantizer.codebook.grad = None, None
    torch.manual_seed(3)
    seed = int(torch.randint(1 << 62, (), dtype=torch.int64))
    noise = torch.cat(
        [
            torch.empty(min(7, 20 - start), 12)
            .exponential_(generator=torch.Generator().manual_seed(seed + start))
            .log()
            for start in range(0, 20, 7)
        ]
    )
    noisy = -0.5 * (latent[0][:, None] - quantizer.codebook).square().sum(dim=-1) - noise
    soft = (noisy / 0.8).softmax(dim=-1)
    chosen = F.one_hot(noisy.argmax(dim=-1), 12).float()
    # hard: the value of the draw, the gradient of the relaxed value
    mixed = soft @ quantizer.codebook
    value = mixed + (chosen @ quantizer.codebook - mixed).detach() if hard else mixed
    assert torch.equal(output.indices[0], noisy.argmax(dim=-1))
    torch.testing.assert_close(output.quantized[0], value)
    (value * weight[0]).sum().backward()
    torch.testing.assert_close(ours, latent.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(codes, quantizer.codebook.grad, rtol=1e-4, atol=1e-5)


def test_evaluation_takes_the_nearest_code_and_draws_nothing():
    quantizer = Gumbel(16, 4).eval()
    latent = torch.randn(1, 30, 4)
    state = torch.get_rng_state()
    indices = quantizer(latent).indices
    assert torch.equal(indices[0], torch.cdist(latent[0], quantizer.codebook).argmin(dim=1))
    assert torch.equal(state, torch.get_rng_state())


def test_two_draws_differ_and_a_seed_repeats_them():
    quantizer = Gumbel(16, 4).train()
    latent = torch.zeros(1, 100, 4)
    torch.manual_seed(0)
    first, second = quantizer(latent).indices, quantizer(latent).indices
    torch.manual_seed(0)
    assert torch.equal(quantizer(latent).indices, first)
    assert not torch.equal(first, second)


def test_the_divergence_is_from_the_uniform_distribution():
    quantizer = Gumbel(8, 4, scale=2.0).train()
    latent = torch.randn(1, 10, 4)
    weights = (-2.0 * torch.cdist(latent[0], quantizer.codebook).square()).softmax(dim=-1)
    expected = math.log(8) - torch.special.entr(weights).sum(dim=-1).mean()
    torch.testing.assert_close(quantizer(latent).losses["kl"], expected)


def test_the_temperature_falls_geometrically_and_survives_a_restart():
    quantizer = Gumbel(8, 4, temperature=1.0, final_temperature=0.25, anneal_steps=4).train()
    seen = []
    for _ in range(6):
        seen.append(quantizer.temperature)
        quantizer.update()
    assert seen == pytest.approx([1.0, 0.5**0.5, 0.5, 0.5**1.5, 0.25, 0.25])
    again = Gumbel(8, 4, temperature=1.0, final_temperature=0.25, anneal_steps=4)
    again.load_state_dict(quantizer.state_dict())
    assert again.temperature == 0.25


def test_wrong_arguments_are_named():
    for name, value in (("temperature", 0.0), ("scale", -1.0), ("anneal_steps", -1), ("codebook_size", 0)):
        with pytest.raises(ValueError, match=name):
            Gumbel(**{"codebook_size": 4, "dim": 2, name: value})
