from __future__ import annotations

import math

import pytest
import torch

from vistok.backbones.patching import Patcher, haar

CHOICES = [
    ("space_to_channel", 1),
    ("space_to_channel", 3),
    ("haar", 1),
    ("haar", 2),
    ("haar", 4),
    ("haar", 8),
]


@pytest.mark.parametrize(("patching", "patch"), CHOICES)
def test_folding_is_undone_exactly_and_keeps_lengths(patching: str, patch: int) -> None:
    patcher = Patcher(patch, patching)  # type: ignore[arg-type]
    # halves of whole numbers have no rounding, so the inverse is exact and not only close
    image = torch.randint(-128, 128, (2, 3, 3 * patch, 5 * patch)) / 128
    folded = patcher(image)
    assert folded.shape == (2, 3 * patch**2, 3, 5)
    assert torch.equal(patcher.inverse(folded), image)
    torch.testing.assert_close(folded.norm(), image.norm())


@pytest.mark.parametrize("patch", [2, 4])
def test_the_haar_transform_is_an_orthogonal_matrix(patch: int) -> None:
    basis = torch.eye(patch**2, dtype=torch.float64).view(-1, 1, patch, patch)
    matrix = Patcher(patch, "haar")(basis).view(patch**2, patch**2)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(patch**2, dtype=torch.float64))


def test_bands_are_mean_rows_columns_and_diagonal() -> None:
    square = torch.tensor([[1.0, 2.0], [4.0, 8.0]]).view(1, 1, 2, 2)
    assert haar(square).flatten().tolist() == [7.5, -4.5, -2.5, 1.5]


def test_the_first_bands_of_two_transforms_are_the_colours_of_squares_of_four() -> None:
    image = torch.rand(1, 3, 8, 12)
    first = Patcher(4, "haar")(image)[:, :3]
    torch.testing.assert_close(first, 4 * torch.nn.functional.avg_pool2d(image, 4))


def test_gradients_come_back_unchanged_in_length() -> None:
    image = torch.rand(1, 3, 8, 8, requires_grad=True)
    weight = torch.randn(1, 48, 2, 2)
    (Patcher(4, "haar")(image) * weight).sum().backward()
    assert image.grad is not None
    assert math.isclose(float(image.grad.norm()), float(weight.norm()), rel_tol=1e-5)


def test_what_cannot_be_folded_is_refused() -> None:
    with pytest.raises(ValueError, match="patch 6 does not go with 'haar': take 1, 2, 4 or 8"):
        Patcher(6, "haar")
    with pytest.raises(ValueError, match="patch 0"):
        Patcher(0)
    with pytest.raises(ValueError, match="not 'wave'"):
        Patcher(2, "wave")  # type: ignore[arg-type]
