import pytest
import torch
from torch import nn

from vistok.errors import RecipeError
from vistok.losses import PatchDiscriminator


def test_logits_have_the_size_that_the_docstring_states():
    assert PatchDiscriminator(channels=4)(torch.zeros(2, 3, 64, 48)).shape == (2, 1, 6, 4)
    assert PatchDiscriminator(channels=4, num_layers=1)(torch.zeros(1, 3, 16, 16)).shape == (1, 1, 6, 6)


def test_a_patch_is_70_pixels_wide():
    discriminator = PatchDiscriminator(channels=2, norm="none")
    image = torch.zeros(1, 3, 160, 160, requires_grad=True)
    discriminator(image)[0, 0, 9, 9].backward()
    rows = image.grad.abs().sum((0, 1, 3)).nonzero()
    assert int(rows.max() - rows.min()) + 1 == 70


def test_an_image_is_judged_alike_in_any_batch():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(channels=8)
    images = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(discriminator(images)[:1], discriminator(images[:1]))


def test_batch_norm_gives_the_published_layers():
    layers = [
        type(m)
        for m in PatchDiscriminator(channels=8, norm="batch").modules()
        if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))
    ]
    assert layers == [
        nn.Conv2d,
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.Conv2d,
    ]
    assert sum(p.numel() for p in PatchDiscriminator(norm="batch").parameters()) == _published_parameters()


def _published_parameters() -> int:
    convolutions = 3 * 64 * 16 + 64 + (64 * 128 + 128 * 256 + 256 * 512 + 512 * 1) * 16 + 1
    return convolutions + 2 * (128 + 256 + 512)


def test_images_that_are_too_small_are_refused_with_the_smallest_side():
    with pytest.raises(RecipeError, match=r"16 x 32 pixels .* needs 24"):
        PatchDiscriminator(channels=4)(torch.zeros(1, 3, 16, 32))
    assert PatchDiscriminator(channels=4)(torch.zeros(1, 3, 24, 24)).shape == (1, 1, 1, 1)


def test_unknown_norm_is_refused():
    with pytest.raises(RecipeError, match="group, batch or none"):
        PatchDiscriminator(norm="layer")
