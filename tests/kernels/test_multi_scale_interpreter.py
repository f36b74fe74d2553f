"""The Triton kernel of the multi-scale search, interpreted.

``test_package.py`` starts a process of its own with TRITON_INTERPRET=1, as for ``test_interpreter.py``.
"""

import os
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("test_package.py runs this file, with TRITON_INTERPRET=1", allow_module_level=True)

from torch.nn import functional as F

from vistok_kernels.multi_scale import kernel, reference
from vistok_kernels.multi_scale.blocked import Convolutions

GRIDS = [(1, 2), (3, 2), (3, 5)]


def both(
    latents: Tensor,
    codebook: Tensor,
    grids: Sequence[tuple[int, int]],
    num_convolutions: int,
    metric: str = "euclid",
    alone: bool = True,
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """What the kernel gives and what the reference gives, with convolutions that smooth by all of themselves."""
    dim = codebook.shape[1]
    weight = torch.randn(num_convolutions, dim, dim, 3, 3) / (3 * dim**0.5)
    bias = torch.randn(num_convolutions, dim) / 10
    assigned = [number % num_convolutions for number in range(len(grids))] if num_convolutions else []
    expected = reference.multi_scale_codes(latents, codebook, grids, weight, bias, assigned, 1.0, metric)
    codes = F.normalize(codebook, dim=1) if metric == "cosine" else codebook
    convolutions = Convolutions(weight, bias, assigned)
    return kernel.multi_scale_codes(latents, codes, convolutions, grids, metric, alone), expected


@pytest.mark.parametrize("metric", ["euclid", "cosine"])
@pytest.mark.parametrize(
    ("grids", "num_codes", "dim", "num_convolutions"),
    [
        ([(1, 1)], 1, 1, 0),
        (GRIDS, 70, 5, 3),
        ([(2, 4), (9, 8)], 140, 18, 0),
        ([(1, 1), (4, 3)], 33, 40, 2),
    ],
    ids=str,
)
def test_every_scale_is_the_references(
    grids: Sequence[tuple[int, int]],
    num_codes: int,
    dim: int,
    num_convolutions: int,
    metric: str,
) -> None:
    latents = torch.randn(2, dim, *grids[-1]).movedim(1, -1)
    found, expected = both(latents, torch.randn(num_codes, dim) / 2, grids, num_convolutions, metric)
    assert torch.equal(found[0], expected[0])
    for part, right in zip(found[1:], expected[1:], strict=True):
        assert part.dtype == torch.float32
        torch.testing.assert_close(part.double(), right, rtol=1e-5, atol=1e-5)


def test_half_precision_is_read_as_it_is() -> None:
    latents = torch.randn(2, 6, 3, 5).movedim(1, -1).bfloat16()
    found, expected = both(latents, torch.randn(50, 6), GRIDS, 1)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1].double(), expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_launches_a_scale_give_the_same(dtype: torch.dtype) -> None:
    latents, codebook = torch.randn(2, 3, 5, 6, dtype=dtype), torch.randn(50, 6, dtype=dtype)
    found, expected = both(latents, codebook, GRIDS, 0, alone=dtype == torch.float64)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1].double(), expected[1], rtol=1e-5, atol=1e-5)


def test_ties_take_the_lowest_index_at_every_scale() -> None:
    codebook = torch.randn(40, 3).repeat(4, 1)
    found, _ = both(torch.randn(1, 3, 5, 3), codebook, GRIDS, 0)
    assert int(found[0].max()) < 40


def test_latents_far_from_the_origin_find_their_codes() -> None:
    latents, codebook = torch.randn(1, 3, 3, 6) + 1e4, torch.randn(40, 6) + 1e4
    found, expected = both(latents, codebook, [(3, 3)], 0)
    assert torch.equal(found[0], expected[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("num_convolutions", [0, 2])
def test_a_bad_value_makes_its_image_bad_and_a_bad_codebook_all(value: float, num_convolutions: int) -> None:
    latents, codebook = torch.randn(3, 3, 5, 4), torch.randn(20, 4)
    latents[1, 2, 4, 3] = value
    (indices, quantized, *_), _ = both(latents, codebook, GRIDS, num_convolutions)
    assert indices.lt(0).any(dim=1).tolist() == [False, True, False] and indices[1].eq(-1).all()
    assert quantized[1].isnan().all() and quantized[::2].isfinite().all()
    codebook[7, 0] = value
    (indices, quantized, *_), _ = both(latents, codebook, GRIDS, num_convolutions)
    assert indices.eq(-1).all() and quantized.isnan().all()


def test_few_images_of_much_work_are_spread_over_the_gpu() -> None:
    assert kernel.one_launch(1, 680, 256, 4096, 132)
    assert kernel.one_launch(66, 680, 256, 16384, 132)
    assert not kernel.one_launch(8, 680, 256, 16384, 132)
    assert not kernel.one_launch(512, 10521, 4096, 4096, 132)


def test_no_images_give_no_indices() -> None:
    found, _ = both(torch.empty(0, 3, 5, 4), torch.randn(5, 4), GRIDS, 1)
    assert found[0].shape == (0, 23) and found[1].shape == (0, 3, 5, 4) and not found[3].any()
