import pytest
import torch

from vistok.downstream.flow import LatentScale, drawn_flow_errors, flow_baselines, flow_errors, integrate


def test_the_baselines_are_what_such_models_have():
    latents = torch.randn(2000, 4, 3)
    baselines = flow_baselines(latents)
    assert baselines["mean"] == pytest.approx(2.0, abs=0.05)
    assert baselines["independent"] == pytest.approx(torch.pi / 2, abs=0.05)

    def nothing(noisy, time):
        return torch.zeros_like(noisy)

    def linear(noisy, time):
        t = time[:, None, None]
        return (2 * t - 1) / (t**2 + (1 - t) ** 2) * noisy

    for name, velocity in (("mean", nothing), ("independent", linear)):
        errors = drawn_flow_errors(velocity, latents, torch.Generator().manual_seed(0))
        assert float(errors.mean()) == pytest.approx(baselines[name], abs=0.05)


def test_the_true_velocity_has_no_error_and_leads_to_the_latents():
    target = torch.randn(2, 4, 3)

    def velocity(noisy, time):
        return (target - noisy) / (1 - time[:, None, None])

    assert float(flow_errors(velocity, target, torch.tensor([0.1, 0.7])).max()) < 1e-9
    assert torch.allclose(integrate(velocity, torch.randn(2, 4, 3), lambda share: None), target, atol=1e-4)


def test_scaled_latents_have_unit_deviation_and_come_back():
    latents = torch.randn(50, 4, 3) * torch.tensor([1.0, 5.0, 0.1]) + 2
    scale = LatentScale(latents)
    scaled = scale(latents)
    assert torch.allclose(scaled.flatten(0, 1).std(dim=0), torch.ones(3), atol=1e-4)
    assert torch.allclose(scale.inverse(scaled), latents, atol=1e-5)
