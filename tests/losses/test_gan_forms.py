import math

import pytest
import torch
from torch.nn import functional

from vistok.losses import (
    consistency,
    hinge_discriminator,
    hinge_generator,
    lecam,
    non_saturating_discriminator,
    non_saturating_generator,
)

REAL, FAKE = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.0])


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


def test_consistency_is_the_mean_squared_difference():
    assert consistency(REAL, FAKE).item() == (4.0**2 + 0.5**2) / 2
    assert consistency(REAL, REAL).item() == 0
