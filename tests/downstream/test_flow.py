import pytest
import torch

from vistok.downstream.captions import Words
from vistok.downstream.diffusion import Diffusion
from vistok.downstream.flow import LatentScale, drawn_flow_errors, flow_baselines, independent_velocity
from vistok.downstream.mixed import Mixed


def test_the_baselines_are_what_such_models_have():
    latents = torch.randn(2000, 4, 3)
    baselines = flow_baselines(latents)
    assert baselines["mean"] == pytest.approx(2.0, abs=0.05)
    assert baselines["independent"] == pytest.approx(torch.pi / 2, abs=0.05)

    def nothing(noisy, time):
        return torch.zeros_like(noisy)

    for name, velocity in (("mean", nothing), ("independent", independent_velocity)):
        errors = drawn_flow_errors(velocity, latents, torch.Generator().manual_seed(0))
        assert float(errors.mean()) == pytest.approx(baselines[name], abs=0.05)


def test_scaled_latents_have_unit_deviation_and_come_back():
    latents = torch.randn(50, 4, 3) * torch.tensor([1.0, 5.0, 0.1]) + 2
    scale = LatentScale(latents)
    scaled = scale(latents)
    assert torch.allclose(scaled.flatten(0, 1).std(dim=0), torch.ones(3), atol=1e-4)
    assert torch.allclose(scale.inverse(scaled), latents, atol=1e-5)


@pytest.mark.parametrize("kind", [Diffusion, Mixed])
def test_training_starts_at_the_loss_of_independent_values(kind):
    latents = torch.randn(500, 4, 3)
    scale = LatentScale(latents)
    torch.manual_seed(0)
    if kind is Mixed:
        words = Words(["red", "blue"])
        model = Mixed(words, torch.full((len(words),), 1 / len(words)), scale, 3, (2, 2), 32, 1)
        batch = words.encode(["red"] * 500), scale(latents)
    else:
        model, batch = Diffusion(scale, 3, (2, 2), 32, 1), (scale(latents),)
    with torch.no_grad():
        costs = model.eval().costs(batch, torch.Generator().manual_seed(0))
    assert float(costs.mean()) == pytest.approx(flow_baselines(batch[-1])["independent"], abs=0.05)
