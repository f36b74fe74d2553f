import itertools

import pytest
import torch

from vistok.quantizers import FSQ, VQ, Gaussian, Residual


def test_each_stage_halves_what_is_left_and_the_sum_is_the_value():
    torch.manual_seed(0)
    quantizer = Residual(VQ(64, 4), 4).train()
    latent = torch.randn(4, 128, 4)
    quantizer.prepare(latent)
    output = quantizer.eval()(latent)
    stages = quantizer.depthwise(output.indices)
    torch.testing.assert_close(stages.sum(-2), output.quantized)
    left = [(latent - stages[..., :n, :].sum(-2)).square().mean() for n in range(5)]
    assert all(after < 0.7 * before for before, after in itertools.pairwise(left))


def test_the_gradient_passes_once_whatever_the_number_of_stages():
    for stages in (1, 3):
        latent = torch.randn(2, 5, 4, requires_grad=True)
        Residual(VQ(16, 4, init="uniform"), stages)(latent).quantized.sum().backward()
        torch.testing.assert_close(latent.grad, torch.ones_like(latent))


def test_the_commitment_of_every_stage_moves_the_encoder():
    latent = torch.randn(2, 50, 4, requires_grad=True)
    quantizer = Residual(VQ(16, 4, init="uniform"), 3)
    (gradient,) = torch.autograd.grad(quantizer(latent).losses["commitment"], latent)
    left, expected = latent.detach(), torch.zeros_like(latent)
    for stage in quantizer.stages:
        left = left - stage.decode(stage(left).indices)
        expected += 2 * left / left.numel() / 3
    torch.testing.assert_close(gradient, expected)


def test_shared_stages_hold_one_codebook():
    shared, own = Residual(VQ(16, 4), 3, shared=True), Residual(VQ(16, 4), 3)
    assert sum(p.numel() for p in own.parameters()) == 3 * sum(p.numel() for p in shared.parameters())


def test_stages_of_fsq_and_wrong_stages():
    assert Residual(FSQ((4, 3)), 2)(torch.randn(1, 3, 2)).indices.shape == (1, 3, 2)
    with pytest.raises(ValueError, match="Gaussian"):
        Residual(Gaussian(4), 2)
    with pytest.raises(ValueError, match="num_stages"):
        Residual(VQ.tiny(), 0)
    with pytest.raises(ValueError, match="3 stages"):
        Residual(VQ.tiny(), 2).decode(torch.zeros(1, 1, 3, dtype=torch.int64))
