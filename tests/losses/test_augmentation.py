import pytest
import torch

from vistok.errors import RecipeError
from vistok.losses import Augmentation
from vistok.training.draws import WholeBatchDraws

IMAGE = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("policy", ["color", "translation", "cutout"])
def test_every_policy_changes_each_image_in_its_own_way_and_passes_gradients(policy):
    torch.manual_seed(0)
    same = IMAGE[:1].expand(6, -1, -1, -1).clone().requires_grad_()
    changed = Augmentation([policy])(same)
    assert changed.shape == same.shape
    assert len({tuple(image.flatten().tolist()) for image in changed.detach()}) > 1
    changed.sum().backward()
    assert same.grad.isfinite().all() and same.grad.abs().sum() > 0


def test_a_shift_moves_pixels_by_at_most_an_eighth_and_fills_with_zero():
    torch.manual_seed(0)
    ones = torch.ones(64, 1, 16, 16)
    moved = Augmentation(["translation"])(ones)
    kept = moved.sum((1, 2, 3))
    assert kept.min() >= 14 * 14 and kept.max() == 256 and kept.unique().numel() > 3
    assert set(moved.unique().tolist()) == {0.0, 1.0}
    ramp = torch.arange(16.0).view(1, 1, 1, 16).expand(8, 1, 16, 16)
    steps = Augmentation(["translation"])(ramp) - ramp
    # what is inside is shifted as a whole
    assert all(len(set(steps[i, 0, 8, 3:13].tolist())) == 1 for i in range(8))


def test_a_quarter_of_the_area_at_most_is_cut_out():
    torch.manual_seed(0)
    left = Augmentation(["cutout"])(torch.ones(64, 1, 16, 16)).sum((1, 2, 3))
    assert left.min() == 256 - 64 and left.max() <= 256 - 16


def test_colours_keep_the_mean_up_to_brightness():
    torch.manual_seed(0)
    grey = torch.full((32, 3, 4, 4), 0.25)
    changed = Augmentation(["color"])(grey)
    # an even grey has neither saturation nor contrast: only its brightness moves
    torch.testing.assert_close(changed, changed.mean((1, 2, 3), keepdim=True).expand_as(changed))
    assert changed.min() >= 0.25 - 0.5 and changed.max() <= 0.25 + 0.5


def test_a_probability_leaves_some_images_alone():
    torch.manual_seed(0)
    images = IMAGE.repeat(20, 1, 1, 1)
    untouched = (Augmentation(probability=0.25)(images) == images).flatten(1).all(1).float().mean()
    assert 0.6 < untouched < 0.9
    assert torch.equal(Augmentation(probability=0.0)(images), images)


def test_processes_draw_what_one_does():
    augment = Augmentation(probability=0.5)
    torch.manual_seed(3)
    whole = augment(IMAGE)
    parts = []
    for rank in range(2):
        torch.manual_seed(3)
        with WholeBatchDraws(3, rank, 2):
            parts.append(augment(IMAGE[rank * 3 :][:3]))
    torch.testing.assert_close(torch.cat(parts), whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"policies": ["colour"]}, "'colour' is unknown: choose among color"), ({"probability": 2}, "is 2")],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(RecipeError, match=message):
        Augmentation(**arguments)
