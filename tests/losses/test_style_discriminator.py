import pytest
import torch

from vistok.errors import RecipeError
from vistok.losses import Adversarial, StyleDiscriminator


def test_one_logit_an_image_that_does_not_depend_on_the_others():
    torch.manual_seed(0)
    network = StyleDiscriminator(16, channels=8, max_channels=16)
    images = torch.randn(3, 3, 16, 16)
    together = network(images)
    assert together.shape == (3, 1)
    torch.testing.assert_close(together, torch.cat([network(image[None]) for image in images]))


def test_its_size_is_stylegan2s():
    with torch.device("meta"):
        network = StyleDiscriminator(256)
    # Karras et al.'s discriminator of 256 pixels has 28,864,129 weights with a channel for the minibatch's deviation
    assert sum(weight.numel() for weight in network.parameters()) == 28_864_129 - 512 * 9


def test_activations_keep_their_size_through_the_depth():
    torch.manual_seed(0)
    logits = StyleDiscriminator(64, channels=16, max_channels=64)(
        torch.randn(16, 3, 1, 1).expand(-1, -1, 64, 64)
    )
    assert 0.1 < logits.std() < 3


def test_it_learns_to_tell_noise_from_flat_images():
    torch.manual_seed(0)
    adversarial = Adversarial(StyleDiscriminator(8, channels=8, max_channels=8), form="non_saturating")
    optimizer = torch.optim.Adam(adversarial.parameters(), lr=2e-2)
    real, fake = torch.randn(8, 3, 8, 8), torch.zeros(8, 3, 8, 8)
    for _ in range(10):
        loss, logged = adversarial.discriminator_loss(real, fake)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert logged["logits_real"] > logged["logits_fake"] + 0.5


def test_it_runs_in_half_precision():
    with torch.autocast("cpu", torch.bfloat16):
        assert StyleDiscriminator(8, channels=8, max_channels=8)(torch.randn(2, 3, 8, 8)).isfinite().all()


@pytest.mark.parametrize("size", [0, 4, 12, 96])
def test_sizes_that_do_not_halve_to_four_are_refused(size):
    with pytest.raises(RecipeError, match=f"size={size} cannot be built"):
        StyleDiscriminator(size, channels=8)


def test_images_of_another_size_are_refused():
    with pytest.raises(RecipeError, match="set its size, which is 8"):
        StyleDiscriminator(8, channels=8)(torch.zeros(1, 3, 16, 16))
