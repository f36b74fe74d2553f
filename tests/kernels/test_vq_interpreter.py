"""The Triton kernels of the training step, of split searches and of residual and product searches, interpreted.

``test_package.py`` starts a process of its own with TRITON_INTERPRET=1, as for ``test_interpreter.py``.
"""

import os

import pytest
import torch
from torch import Tensor

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("test_package.py runs this file, with TRITON_INTERPRET=1", allow_module_level=True)

from vistok_kernels.residual import kernel as residual_kernel
from vistok_kernels.residual import reference as residual_reference
from vistok_kernels.vq import kernel as vq_kernel
from vistok_kernels.vq import reference as vq_reference
from vistok_kernels.vq import step_kernel


@pytest.mark.parametrize("metric", ["euclid", "cosine"])
@pytest.mark.parametrize("splits", [2, 3, 100])
def test_a_split_search_finds_the_same_codes(splits: int, metric: str) -> None:
    latents, codebook = torch.randn(140, 5), torch.randn(400, 5)
    expected = vq_reference.nearest_code(latents, codebook, metric)
    assert torch.equal(vq_kernel.nearest_code(latents, codebook, metric, splits), expected)


def test_ties_take_the_lowest_index_across_splits() -> None:
    codebook = torch.randn(64, 3).repeat(5, 1)
    assert int(vq_kernel.nearest_code(torch.randn(40, 3), codebook, "euclid", 5).max()) < 64


def test_a_bad_row_is_marked_by_a_split_search() -> None:
    latents, codebook = torch.randn(9, 3), torch.randn(300, 3)
    expected = vq_reference.nearest_code(latents, codebook)
    latents[4, 2], expected[4] = float("nan"), -1
    assert torch.equal(vq_kernel.nearest_code(latents, codebook, "euclid", 4), expected)


def test_only_few_latents_split_the_codebook() -> None:
    assert vq_kernel.num_splits(2**20, 2**18, 8, 132) == 1
    assert vq_kernel.num_splits(256, 2**18, 8, 132) == 66
    assert vq_kernel.num_splits(256, 1024, 8, 132) == 2
    assert vq_kernel.num_splits(1, 16, 8, 132) == 1


@pytest.mark.parametrize("metric", ["euclid", "cosine"])
@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("shape", [(1, 1, 1), (150, 140, 5), (70, 200, 40)], ids=str)
def test_a_step_is_the_references(shape: tuple[int, int, int], splits: int, metric: str) -> None:
    num_latents, num_codes, dim = shape
    latents, codebook = torch.randn(dim, num_latents).T, torch.randn(num_codes, 2 * dim)[:, ::2]
    results = step_kernel.vq_step(latents, codebook, metric, splits=splits)
    expected = vq_reference.vq_step(latents, codebook, metric)
    for result, correct in zip(results, expected, strict=True):
        torch.testing.assert_close(result.double(), correct.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("splits", [1, 2])
def test_a_bad_row_of_a_step_shows_in_the_error_and_in_no_sum(splits: int) -> None:
    latents, codebook = torch.randn(10, 4), torch.randn(130, 4)
    latents[3, 1] = float("inf")
    codes, indices, error, counts, sums = step_kernel.vq_step(latents, codebook, "euclid", splits=splits)
    assert indices.eq(-1).nonzero().flatten().tolist() == [3]
    assert codes[3].isnan().all() and codes.isnan().sum() == 4
    assert not error.isfinite() and counts.sum() == 9 and sums.isfinite().all()


def test_a_step_follows_given_indices_and_marks_those_that_name_no_code() -> None:
    latents, codebook, indices = torch.randn(40, 5), torch.randn(9, 5), torch.arange(40) % 9
    whole = step_kernel.vq_step(latents, codebook, "euclid", indices)
    codes, same, error, counts, sums = step_kernel.vq_step(latents, codebook, "euclid", indices, False)
    assert same is indices and torch.equal(codes, codebook[indices]) and counts.shape == (0,)
    assert sums.shape == (0, 5)
    torch.testing.assert_close(error, (latents - codes).square().sum())
    assert torch.equal(whole[0], codes) and torch.equal(whole[3], torch.bincount(indices))
    torch.testing.assert_close(
        whole[4].double(), vq_reference.code_sums(latents, indices, 9)[1], rtol=1e-5, atol=1e-5
    )
    strided = torch.stack([indices, indices.flip(0)], dim=1)[:, 0]
    assert torch.equal(step_kernel.vq_step(latents, codebook, "euclid", strided)[0], codes)
    indices[7] = -1
    assert step_kernel.vq_step(latents, codebook, "euclid", indices)[0][7].isnan().all()


def test_a_step_of_no_latents_is_empty() -> None:
    codes, indices, error, counts, sums = step_kernel.vq_step(torch.empty(0, 3), torch.randn(5, 3), "euclid")
    assert codes.shape == (0, 3) and indices.shape == (0,)
    assert not error and not counts.any() and not sums.any()


def stages(num_stages: int, num_codes: int, dim: int, offset: float = 0.0) -> Tensor:
    """Codebooks that get finer stage by stage."""
    return torch.stack([torch.randn(num_codes, dim) / 2**stage + offset for stage in range(num_stages)])


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (70, 3, 70, 5), (20, 4, 40, 40), (17, 2, 33, 200)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_residual_stages_are_the_references(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    num_latents, num_stages, num_codes, dim = shape
    latents, codebooks = torch.randn(dim, num_latents).T.to(dtype), stages(num_stages, num_codes, dim)
    indices, quantized = residual_kernel.residual_codes(latents, codebooks)
    expected_indices, expected = residual_reference.residual_codes(latents, codebooks)
    assert torch.equal(indices, expected_indices) and quantized.dtype == torch.float32
    torch.testing.assert_close(quantized.double(), expected, rtol=1e-5, atol=1e-5)


def test_residuals_in_double_precision_keep_it() -> None:
    latents, codebooks = torch.randn(9, 4).double() + 1e9, stages(2, 20, 4).double()
    codebooks[0] += 1e9
    indices, quantized = residual_kernel.residual_codes(latents, codebooks)
    expected_indices, expected = residual_reference.residual_codes(latents, codebooks)
    assert torch.equal(indices, expected_indices) and torch.equal(quantized, expected)


def test_the_latents_of_a_wide_residual_stay_as_they_were() -> None:
    latents, codebooks = torch.randn(9, 140), stages(2, 20, 140)
    before = latents.clone()
    residual_kernel.residual_codes(latents, codebooks)
    assert torch.equal(latents, before)


def test_ties_take_the_lowest_index_in_every_stage() -> None:
    codebooks = stages(3, 50, 3).repeat(1, 3, 1)
    assert int(residual_kernel.residual_codes(torch.randn(30, 3), codebooks)[0].max()) < 50


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dim", [4, 140])
def test_bad_rows_are_bad_at_every_stage_and_bad_codebooks_from_theirs_on(value: float, dim: int) -> None:
    latents, codebooks = torch.randn(10, dim), stages(3, 20, dim)
    expected, _ = residual_reference.residual_codes(latents, codebooks)
    latents[6, 3], expected[6] = value, -1
    indices, quantized = residual_kernel.residual_codes(latents, codebooks)
    assert torch.equal(indices, expected)
    assert quantized[6].isnan().all() and quantized.isnan().sum() == dim
    codebooks[1, 2, 0] = value
    indices, quantized = residual_kernel.residual_codes(latents, codebooks)
    assert torch.equal(indices[:, 0], expected[:, 0])
    assert indices[:, 1:].eq(-1).all() and quantized.isnan().all()


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (140, 3, 70, 5), (20, 2, 70, 40)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_product_groups_are_the_references(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    num_latents, num_groups, num_codes, dim = shape
    latents, codebooks = torch.randn(num_groups * dim, num_latents).T, stages(num_groups, num_codes, dim, 1e3)
    latents = (latents + 1e3).to(dtype)
    expected = residual_reference.product_codes(latents, codebooks)
    assert torch.equal(residual_kernel.product_codes(latents, codebooks), expected)


def test_a_bad_value_marks_its_group_alone() -> None:
    latents, codebooks = torch.randn(10, 6), stages(2, 20, 3)
    expected = residual_reference.product_codes(latents, codebooks)
    latents[4, 5], expected[4, 1] = float("nan"), -1
    assert torch.equal(residual_kernel.product_codes(latents, codebooks), expected)
    codebooks[0, 1, 1], expected[:, 0] = float("inf"), -1
    assert torch.equal(residual_kernel.product_codes(latents, codebooks), expected)


def test_no_latents_give_no_indices() -> None:
    empty = torch.empty(0, 4)
    indices, quantized = residual_kernel.residual_codes(empty, torch.randn(2, 5, 4))
    assert indices.shape == (0, 2) and quantized.shape == (0, 4)
    assert residual_kernel.product_codes(empty, torch.randn(2, 5, 2)).shape == (0, 2)
