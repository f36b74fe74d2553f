import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from vistok.errors import RecipeError
from vistok.losses import Adversarial, Augmentation, PatchDiscriminator


class MeanLogit(nn.Module):
    """One logit per image: gain times its mean."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.gain * image.mean((1, 2, 3))


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
    adversarial = Adversarial(MeanLogit(), lecam_weight=1.0)
    adversarial.lecam_decay = 0.9
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
        ({"consistency_weight": -2}, "consistency_weight is -2"),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(RecipeError, match=message):
        Adversarial(**arguments)


class Darken(Augmentation):
    """Halves what is seen, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return image / 2


def test_the_discriminator_sees_augmented_images_and_gradients_flow_through():
    adversarial = Adversarial(MeanLogit(), weight=1.0, adaptive=False, augment=Darken())
    reconstruction = torch.ones(2, 3, 4, 4, requires_grad=True)
    loss, _ = adversarial.generator_loss(reconstruction)
    assert loss.item() == -0.5
    loss.backward()
    torch.testing.assert_close(reconstruction.grad.sum(), torch.tensor(-0.5))
    _, logged = adversarial.discriminator_loss(torch.full((2, 3, 4, 4), 3.0), reconstruction)
    assert (logged["logits_real"].item(), logged["logits_fake"].item()) == (1.5, 0.5)


def test_consistency_has_its_closed_form_and_trains_the_discriminator_alone():
    adversarial = Adversarial(MeanLogit(), consistency_weight=4.0, augment=Darken())
    image, reconstruction = torch.full((2, 3, 4, 4), 4.0), torch.ones(2, 3, 4, 4, requires_grad=True)
    loss, logged = adversarial.discriminator_loss(image, reconstruction)
    # logits 2 and 0.5, once more augmented 1 and 0.25
    assert logged["consistency"].item() == (2 - 1) ** 2 + (0.5 - 0.25) ** 2
    torch.testing.assert_close(loss.detach(), logged["discriminator"] + 4 * logged["consistency"])
    loss.backward()
    assert reconstruction.grad is None and adversarial.discriminator.gain.grad is not None


def test_regularisation_of_weight_zero_costs_no_pass():
    calls = []

    class Counting(MeanLogit):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            calls.append(len(image))
            return super().forward(image)

    augment = Darken()
    image = torch.ones(2, 3, 4, 4)
    _, logged = Adversarial(Counting()).discriminator_loss(image, image)
    assert len(calls) == 2 and set(logged) == {"discriminator", "logits_real", "logits_fake"}
    Adversarial(Counting(), consistency_weight=1.0, augment=augment).discriminator_loss(image, image)
    assert len(calls) == 6 and augment.count == 4


def test_consistency_without_an_augmentation_uses_the_published_one():
    torch.manual_seed(0)
    image = torch.rand(4, 3, 16, 16)
    adversarial = Adversarial(PatchDiscriminator(channels=4, num_layers=1), consistency_weight=1.0)
    assert adversarial.discriminator_loss(image, image)[1]["consistency"] > 0
