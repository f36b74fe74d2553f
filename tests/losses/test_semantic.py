import copy

import pytest
import torch
from torch import Tensor, nn

from vistok.backbones.base import Encoder
from vistok.errors import RecipeError
from vistok.losses import Semantic
from vistok.losses.semantic import resize_grid


class Patches(Encoder):
    """Features are the mean colours of 4 x 4 patches, times a parameter."""

    dim, factor = 3, 4

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.norm = nn.BatchNorm2d(3)

    def forward(self, image: Tensor) -> Tensor:
        return self.gain * nn.functional.avg_pool2d(image, 4).movedim(1, -1)


IMAGE = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) + 0.1


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_it_is_zero_for_the_teachers_own_features(distance):
    teacher = Patches()
    assert Semantic(teacher, distance)(IMAGE, teacher(IMAGE)).item() == pytest.approx(0, abs=1e-6)


def test_cosine_has_its_closed_form():
    features = Patches()(IMAGE)
    assert Semantic(Patches())(IMAGE, -2 * features).item() == pytest.approx(2.0)
    assert Semantic(Patches())(IMAGE, 7 * features).item() == pytest.approx(0.0, abs=1e-6)


def test_l2_has_its_closed_form():
    assert Semantic(Patches(), "l2")(IMAGE, Patches()(IMAGE) + 0.5).item() == pytest.approx(0.25)


def test_gradients_reach_the_features_and_not_the_teacher():
    teacher = Patches()
    features = torch.rand(2, 4, 4, 3, requires_grad=True)
    Semantic(teacher)(IMAGE, features).backward()
    assert features.grad.abs().sum() > 0
    assert teacher.gain.grad is None


@pytest.mark.parametrize("grid", [(2, 2), (8, 8), (2, 8), (3, 3)])
def test_teacher_features_follow_the_predicted_grid(grid):
    assert Semantic(Patches()).target(IMAGE, grid).shape == (2, *grid, 3)


def test_a_coarser_grid_averages():
    features = torch.rand(1, 4, 4, 3)
    expected = features.reshape(1, 2, 2, 2, 2, 3).mean((2, 4))
    torch.testing.assert_close(resize_grid(features, (2, 2)), expected)


def test_the_teacher_is_frozen_and_absent_from_checkpoints_and_optimizers():
    loss = Semantic(Patches())
    loss.train()
    assert not loss.network.training
    assert not loss.state_dict()
    assert not list(loss.parameters())
    assert not any(p.requires_grad for p in loss.network.parameters())


def test_the_teacher_follows_the_loss_to_another_type_and_into_copies():
    loss = nn.Sequential(Semantic(Patches())).double()
    assert next(loss[0].network.parameters()).dtype == torch.float64
    copied = copy.deepcopy(loss)
    assert copied[0].network is not loss[0].network


def test_another_number_of_channels_is_refused_with_the_remedy():
    with pytest.raises(RecipeError, match="5 channels but the teacher has 3: set the head's dim_out to 3"):
        Semantic(Patches())(IMAGE, torch.zeros(2, 4, 4, 5))


def test_unknown_distance_is_refused():
    with pytest.raises(RecipeError, match="cosine, l1 or l2"):
        Semantic(Patches(), "kl")


def test_l1_has_its_closed_form():
    assert Semantic(Patches(), "l1")(IMAGE, Patches()(IMAGE) - 0.5).item() == pytest.approx(0.5)


@pytest.mark.parametrize("length", [16, 4, 64])
def test_a_sequence_is_compared_with_the_teachers_positions_in_raster_order(length):
    target = Semantic(Patches()).target(IMAGE, (length,))
    raster = Patches()(IMAGE).flatten(1, 2)
    expected = {
        16: raster,
        4: raster.reshape(2, 4, 4, 3).mean(2),
        64: raster.repeat_interleave(4, dim=1),
    }[length]
    torch.testing.assert_close(target, expected)
    assert Semantic(Patches())(IMAGE, expected).item() == pytest.approx(0, abs=1e-6)


def test_the_teacher_sees_images_of_its_own_size():
    flat = torch.full((1, 3, 32, 32), 0.25)
    target = Semantic(Patches(), size=16).target(flat, (4, 4))
    torch.testing.assert_close(target, torch.full((1, 4, 4, 3), 0.25))
    with pytest.raises(RecipeError, match="size is 18: the teacher takes multiples of 4"):
        Semantic(Patches(), size=18)


@pytest.mark.parametrize("distance", ["cosine", "l1", "l2"])
def test_half_precision_features_are_compared_in_float32(distance):
    features = Patches()(IMAGE).detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = Semantic(Patches(), distance)(IMAGE, features)
    assert loss.dtype == torch.float32 and loss.isfinite()
    loss.backward()
    assert features.grad.isfinite().all()
