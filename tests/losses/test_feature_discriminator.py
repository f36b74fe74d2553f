import pytest
import torch

from vistok.backbones import TimmEncoder
from vistok.errors import RecipeError
from vistok.losses import Adversarial, FeatureDiscriminator


def lite0() -> TimmEncoder:
    return TimmEncoder("tf_efficientnet_lite0", weights="efficientnet-lite0")


def vit() -> TimmEncoder:
    torch.manual_seed(0)
    return TimmEncoder("vit_tiny_patch16_224")


@pytest.mark.parametrize(
    ("make", "layers", "positions"), [(lite0, (1, 3), 16 * 16 + 4 * 4), (vit, (2, 5, 8, 11), 4 * 16)]
)
def test_it_gives_a_logit_for_each_position_of_each_layer(make, layers, positions):
    network = FeatureDiscriminator(make(), layers).eval()
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    together = network(images)
    assert together.shape == (2, positions)
    torch.testing.assert_close(
        together, torch.cat([network(image[None]) for image in images]), atol=1e-4, rtol=1e-3
    )


def test_the_network_is_frozen_and_not_saved_and_gradients_reach_the_image():
    network = FeatureDiscriminator(lite0(), (1,))
    image = (torch.rand(1, 3, 32, 32) * 2 - 1).requires_grad_()
    network(image).sum().backward()
    assert image.grad.abs().sum() > 0
    assert all(name.startswith("heads.") for name in network.state_dict())
    assert all(p.grad is None for p in network.features.network.parameters())
    assert all(p.grad is not None for p in network.parameters())
    assert not network.train().features.network.training


def test_every_convolution_has_spectral_norm_one():
    network = FeatureDiscriminator(lite0(), (1, 3)).train()
    for _ in range(30):
        network(torch.zeros(1, 3, 32, 32))  # power iterations
    convs = [module for module in network.heads.modules() if isinstance(module, torch.nn.Conv1d)]
    assert len(convs) == 6
    for conv in convs:
        assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.05)


def test_it_learns_to_tell_noise_from_flat_images_through_both_sides_of_the_adversarial_part():
    torch.manual_seed(0)
    adversarial = Adversarial(FeatureDiscriminator(lite0(), (1,)), adaptive=False, consistency_weight=0.1)
    optimizer = torch.optim.Adam(adversarial.parameters(), lr=1e-2)
    real, fake = torch.randn(4, 3, 32, 32).clamp(-1, 1), torch.zeros(4, 3, 32, 32)
    for _ in range(12):
        loss, logged = adversarial.discriminator_loss(real, fake)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert logged["logits_real"] > logged["logits_fake"] + 0.2
    fake.requires_grad_()
    adversarial.generator_loss(fake)[0].backward()
    assert fake.grad.abs().sum() > 0


def test_images_are_resized_to_what_the_network_was_trained_on():
    network = FeatureDiscriminator(vit(), (0,), size=32)
    assert network(torch.zeros(1, 3, 64, 48)).shape == (1, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": ()}, "name layers 0 to 4"),
        ({"layers": (1, 9)}, "name layers 0 to 4"),
        ({"layers": (3, 1)}, "each once and in order"),
        ({"layers": (1,), "kernel_size": 4}, "odd"),
        ({"layers": (1,), "size": 33}, "multiples of 32"),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(RecipeError, match=message):
        FeatureDiscriminator(TimmEncoder("tf_efficientnet_lite0"), **arguments)
