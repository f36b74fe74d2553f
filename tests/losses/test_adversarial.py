import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from vistok.errors import RecipeError
from vistok.losses import (
    Adversarial,
    PatchDiscriminator,
    adaptive_weight,
    hinge_discriminator,
    hinge_generator,
    lecam,
    non_saturating_discriminator,
    non_saturating_generator,
)

REAL, FAKE = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.0])


class MeanLogit(nn.Module):
    """One logit per image: gain times its mean."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.gain * image.mean((1, 2, 3))


def test_hinge_has_its_closed_form():
    assert hinge_discriminator(REAL, FAKE).item() == 0.5 * ((0 + 0.5) / 2 + (0 + 1) / 2)
    assert hinge_generator(FAKE).item() == 1.0


def test_non_saturating_has_its_closed_form():
    real = (math.log1p(math.exp(-2.0)) + math.log1p(math.exp(-0.5))) / 2
    fake = (math.log1p(math.exp(-2.0)) + math.log(2)) / 2
    assert non_saturating_discriminator(REAL, FAKE).item() == pytest.approx(0.5 * (real + fake))
    assert non_saturating_generator(FAKE).item() == pytest.approx(
        (math.log1p(math.exp(2.0)) + math.log(2)) / 2
    )


def test_non_saturating_is_cross_entropy_with_inputs_and_targets_in_their_places():
    expected = functional.binary_cross_entropy_with_logits(FAKE, torch.ones_like(FAKE))
    torch.testing.assert_close(non_saturating_generator(FAKE), expected)
    swapped = functional.binary_cross_entropy_with_logits(torch.ones_like(FAKE), FAKE)
    assert not torch.isclose(non_saturating_generator(FAKE), swapped)


@pytest.mark.parametrize("loss", [hinge_generator, non_saturating_generator])
def test_the_generator_loss_falls_as_fake_logits_rise(loss):
    fake = torch.linspace(-3, 3, 7, requires_grad=True)
    loss(fake).backward()
    assert (fake.grad < 0).all()


@pytest.mark.parametrize("loss", [hinge_discriminator, non_saturating_discriminator])
def test_the_discriminator_loss_falls_as_the_two_part(loss):
    real, fake = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    loss(real, fake).backward()
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()


def test_lecam_has_its_closed_form():
    value = lecam(REAL, FAKE, ema_real=torch.tensor(1.0), ema_fake=torch.tensor(-1.0))
    assert value.item() == (3.0**2 + 1.5**2) / 2 + (3.0**2 + 1.0**2) / 2


def test_lecam_ignores_logits_beyond_the_other_side():
    assert lecam(torch.tensor([-2.0]), torch.tensor([3.0]), torch.tensor(1.0), torch.tensor(-1.0)).item() == 0


def test_adaptive_weight_is_the_ratio_of_gradient_norms():
    last = torch.tensor([3.0, 4.0], requires_grad=True)
    weight = adaptive_weight((2 * last).sum(), -(0.5 * last).sum(), last)
    assert weight.item() == pytest.approx(2 * math.sqrt(2) / (0.5 * math.sqrt(2) + 1e-4))
    assert not weight.requires_grad


def test_adaptive_weight_stops_at_ten_thousand():
    last = torch.tensor([1.0], requires_grad=True)
    assert adaptive_weight(1e6 * last.sum(), 0 * last.sum(), last).item() == 1e4


def test_it_waits_for_its_start():
    adversarial = Adversarial(MeanLogit(), start=10)
    assert [adversarial.active(step) for step in (0, 9, 10, 11)] == [False, False, True, True]


def test_weight_zero_builds_no_discriminator_and_never_acts():
    adversarial = Adversarial(weight=0)
    assert adversarial.discriminator is None
    assert not adversarial.active(10**6)
    assert not list(adversarial.parameters())
    with pytest.raises(RecipeError, match="weight 0"):
        adversarial.generator_loss(torch.zeros(1, 3, 32, 32))


def test_the_default_discriminator_is_a_patchgan():
    assert isinstance(Adversarial().discriminator, PatchDiscriminator)


def test_generator_loss_moves_the_reconstruction_and_not_the_discriminator():
    adversarial = Adversarial(MeanLogit(2.0), weight=0.5, adaptive=False)
    reconstruction = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss, logged = adversarial.generator_loss(reconstruction)
    loss.backward()
    torch.testing.assert_close(
        reconstruction.grad, torch.full_like(reconstruction, -0.5 * 2.0 / reconstruction.numel())
    )
    assert adversarial.discriminator.gain.grad is None
    assert adversarial.discriminator.gain.requires_grad
    assert set(logged) == {"adversarial"}


def test_generator_loss_is_scaled_by_the_adaptive_weight():
    adversarial = Adversarial(MeanLogit(), weight=0.8)
    decoder = nn.Conv2d(3, 3, 1, bias=False)
    reconstruction = decoder(torch.rand(2, 3, 4, 4))
    loss, logged = adversarial.generator_loss(reconstruction, 3 * reconstruction.mean(), decoder.weight)
    # both gradients have one direction, the norms differ by the factor 3 (up to the 1e-4 in the denominator)
    assert logged["adaptive_weight"].item() == pytest.approx(3.0, rel=1e-2)
    assert loss.item() == pytest.approx(0.8 * (logged["adaptive_weight"] * logged["adversarial"]).item())
    loss.backward()
    assert decoder.weight.grad is not None


def test_adaptive_without_a_last_layer_is_refused():
    with pytest.raises(RecipeError, match="adaptive: false"):
        Adversarial(MeanLogit()).generator_loss(torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize("form", ["hinge", "non_saturating"])
def test_discriminator_loss_leaves_the_tokenizer_alone(form):
    adversarial = Adversarial(MeanLogit(), form=form, lecam_weight=0.1)
    image, reconstruction = torch.full((2, 3, 4, 4), 0.5), torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss, logged = adversarial.discriminator_loss(image, reconstruction)
    loss.backward()
    assert reconstruction.grad is None
    assert adversarial.discriminator.gain.grad < 0  # a larger gain parts the two further
    assert set(logged) == {"discriminator", "logits_real", "logits_fake", "lecam"}
    torch.testing.assert_close(loss.detach(), logged["discriminator"] + 0.1 * logged["lecam"])


def test_a_few_steps_teach_the_discriminator_to_part_the_two():
    torch.manual_seed(0)
    adversarial = Adversarial(PatchDiscriminator(channels=8))
    optimizer = torch.optim.Adam(adversarial.parameters(), lr=1e-3)
    image, reconstruction = (
        torch.rand(4, 3, 32, 32),
        torch.rand(4, 3, 32, 32).mean((2, 3), keepdim=True).expand(4, 3, 32, 32),
    )
    for _ in range(15):
        loss, logged = adversarial.discriminator_loss(image, reconstruction)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert logged["logits_real"] > logged["logits_fake"] + 0.5


def test_update_moves_the_averages_by_the_mean_of_the_steps_seen():
    adversarial = Adversarial(MeanLogit(), lecam_weight=1.0, lecam_decay=0.9)
    for value in (1.0, 3.0):
        adversarial.discriminator_loss(torch.full((2, 3, 4, 4), value), torch.full((2, 3, 4, 4), -value))
    adversarial.update()
    assert adversarial.ema_real.item() == pytest.approx(0.1 * 2.0)
    assert adversarial.ema_fake.item() == pytest.approx(-0.1 * 2.0)
    adversarial.update()  # nothing seen since: nothing moves
    assert adversarial.ema_real.item() == pytest.approx(0.2)


def test_averages_are_saved_and_pending_sums_are_not():
    adversarial = Adversarial(MeanLogit(), lecam_weight=1.0)
    assert set(adversarial.state_dict()) == {"discriminator.gain", "ema_real", "ema_fake"}


def test_two_processes_hold_the_averages_of_the_whole_batch(tmp_path):
    script = Path(__file__).with_name("two_ranks.py")
    ranks = [subprocess.Popen([sys.executable, str(script), str(rank), str(tmp_path)]) for rank in range(2)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True).tolist() == [1.0, -1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "wgan"}, "hinge or non_saturating"),
        ({"weight": -1}, "weight is -1"),
        ({"start": -5}, "start is -5"),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(RecipeError, match=message):
        Adversarial(**arguments)
