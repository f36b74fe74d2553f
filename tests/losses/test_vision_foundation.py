import math

import pytest
import torch
from torch import Tensor, nn

from vistok.backbones.base import Encoder
from vistok.errors import RecipeError
from vistok.losses import VisionFoundation


class Given(Encoder):
    """Always the same features, whatever the image."""

    factor = 4

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = nn.Parameter(features)
        self.dim = features.shape[-1]

    def forward(self, image: Tensor) -> Tensor:
        return self.features.expand(len(image), -1, -1, -1)


# two positions with orthogonal features
TEACHER = torch.tensor([[[[1.0, 0.0], [0.0, 3.0]]]])
IMAGE = torch.zeros(1, 3, 4, 8)


def at(*degrees: float) -> Tensor:
    """Features (1, 1, 2, 2) of unit length at angles."""
    radians = torch.tensor(degrees) * math.pi / 180
    return torch.stack([radians.cos(), radians.sin()], dim=-1).view(1, 1, -1, 2)


def loss(features: Tensor, cosine_margin: float = 0.0, distance_margin: float = 0.0) -> float:
    term = VisionFoundation(Given(TEACHER), cosine_margin, distance_margin)
    return term(IMAGE, features).item()


def test_it_is_zero_for_the_teachers_own_directions():
    assert loss(TEACHER) == pytest.approx(0, abs=1e-6)
    assert loss(at(0, 90) * 7) == pytest.approx(0, abs=1e-6)


def test_without_margins_it_has_its_closed_form():
    # cosines to the teacher: 1 and cos 30; the predicted pair has a cosine of cos 60, the teacher's pair 0
    cosine = (0 + 1 - math.cos(math.radians(30))) / 2
    distance = 2 * 0.5 / 4  # of 2 x 2 entries the diagonal agrees
    assert loss(at(0, 60)) == pytest.approx(cosine + distance, abs=1e-6)


def test_margins_are_subtracted_before_the_mean_and_never_reward():
    cosine = (0 + (1 - 0.1 - math.cos(math.radians(30)))) / 2
    distance = 2 * (0.5 - 0.25) / 4
    assert loss(at(0, 60), 0.1, 0.25) == pytest.approx(cosine + distance, abs=1e-6)
    assert loss(at(0, 60), 0.5, 0.5) == pytest.approx(0, abs=1e-6)


def test_the_cosine_margin_lets_features_turn_freely_within_it():
    features = at(10, 80).requires_grad_()
    VisionFoundation(Given(TEACHER), 0.5, 1.0)(IMAGE, features).backward()
    assert features.grad.abs().sum() == 0


def test_the_adaptive_weight_reaches_the_encoder_of_a_whole_training_step(tmp_path):
    from tests.training.parts import make_data, make_module, make_tokenizer, make_trainer
    from vistok import Tokenizer
    from vistok.backbones import FeatureDecoder
    from vistok.losses import LossTerms
    from vistok.quantizers import Gaussian

    made = make_tokenizer(Gaussian(4))
    tokenizer = Tokenizer(
        made.encoder,
        made.quantizer,
        made.decoder,
        feature_head=FeatureDecoder(4, 2, width=8, depth=0, num_heads=1),
    )
    term = VisionFoundation(Given(torch.randn(1, 8, 8, 2)))
    losses = LossTerms({"l1": 1.0, "kl": 1e-6, "vf": 0.1}, terms={"vf": term})
    module = make_module(tokenizer=tokenizer, losses=losses)
    trainer = make_trainer(tmp_path, 2, val_check_interval=2)
    trainer.fit(module, make_data(val="procedural:1:24"))
    logged = trainer.callback_metrics
    assert 0 < logged["loss/vf_weight"] < 1e4 and logged["loss/vf"] > 0
    assert "val/vf" in logged and "val/vf_weight" not in logged


def test_gradients_reach_the_features_and_not_the_teacher():
    teacher = Given(TEACHER)
    features = at(20, 130).requires_grad_()
    VisionFoundation(teacher)(IMAGE, features).backward()
    assert features.grad.abs().sum() > 0 and teacher.features.grad is None


def test_half_precision_is_measured_in_float32():
    with torch.autocast("cpu", torch.bfloat16):
        term = VisionFoundation(Given(TEACHER), 0, 0)
        value = term(IMAGE, at(0, 60).bfloat16())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(0.067 + 0.25, abs=5e-3)


@pytest.mark.parametrize("name", ["cosine_margin", "distance_margin"])
def test_margins_that_cosines_cannot_reach_are_refused(name):
    with pytest.raises(RecipeError, match=f"{name} is 2.5"):
        VisionFoundation(Given(TEACHER), **{name: 2.5})
