"""The Triton kernels themselves, run on the CPU by Triton's interpreter.

The interpreter is chosen when ``@triton.jit`` runs, so these tests need a process of their own with TRITON_INTERPRET=1;
``test_package.py`` starts it, so that a plain ``pytest`` covers them.
"""

import os

import pytest
import torch
from torch import Tensor

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("test_package.py runs this file, with TRITON_INTERPRET=1", allow_module_level=True)

from vistok_kernels.fsq import kernel as fsq_kernel
from vistok_kernels.fsq import reference as fsq_reference
from vistok_kernels.vq import kernel as vq_kernel
from vistok_kernels.vq import reference as vq_reference


@pytest.mark.parametrize("metric", ["euclid", "cosine"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (70, 100, 5), (130, 65, 18), (33, 70, 40), (20, 130, 100)], ids=str
)
def test_indices_are_those_of_the_reference(shape: tuple[int, int, int], metric: str) -> None:
    num_latents, num_codes, dim = shape
    latents, codebook = torch.randn(num_latents, dim), torch.randn(num_codes, dim)
    assert torch.equal(
        vq_kernel.nearest_code(latents, codebook, metric),
        vq_reference.nearest_code(latents, codebook, metric),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_give_the_indices_of_their_own_values(dtype: torch.dtype) -> None:
    latents, codebook = torch.randn(40, 8).to(dtype), torch.randn(70, 8).to(dtype)
    assert torch.equal(
        vq_kernel.nearest_code(latents, codebook, "euclid"), vq_reference.nearest_code(latents, codebook)
    )


@pytest.mark.parametrize("dim", [3, 50])
def test_ties_take_the_lowest_index_within_and_across_tiles(dim: int) -> None:
    codebook = torch.randn(50, dim).repeat(5, 1)
    assert int(vq_kernel.nearest_code(torch.randn(40, dim), codebook, "euclid").max()) < 50
    lattice = torch.arange(200.0).repeat_interleave(2)[:, None].expand(400, dim)
    found = vq_kernel.nearest_code(lattice[:80:2] + 0.5, lattice, "euclid")
    assert torch.equal(found, 2 * torch.arange(40))


def test_latents_far_from_the_origin_find_their_codes() -> None:
    codebook = torch.randn(100, 8) + 1e4
    assert torch.equal(vq_kernel.nearest_code(codebook, codebook, "euclid"), torch.arange(100))
    double = torch.randn(64, 4, dtype=torch.float64) + 1e12
    assert torch.equal(vq_kernel.nearest_code(double, double, "euclid"), torch.arange(64))


def test_strided_and_empty_latents_are_read() -> None:
    latents, codebook = torch.randn(18, 40).T, torch.randn(30, 36)[:, ::2]
    assert torch.equal(
        vq_kernel.nearest_code(latents, codebook, "euclid"), vq_reference.nearest_code(latents, codebook)
    )
    assert vq_kernel.nearest_code(latents[:0], codebook, "euclid").shape == (0,)


@pytest.mark.parametrize("metric", ["euclid", "cosine"])
@pytest.mark.parametrize("dim", [3, 40])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_row_gets_minus_one_and_a_bad_codebook_gives_it_to_all(
    value: float, dim: int, metric: str
) -> None:
    latents, codebook = torch.randn(10, dim), torch.randn(20, dim)
    expected = vq_reference.nearest_code(latents, codebook, metric)
    latents[4, dim - 1], expected[4] = value, -1
    assert torch.equal(vq_kernel.nearest_code(latents, codebook, metric), expected)
    codebook[7, 0] = value
    assert vq_kernel.nearest_code(latents, codebook, metric).eq(-1).all()


@pytest.mark.parametrize("shape", [(0, 3, 2), (50, 10, 18), (300, 2, 130)], ids=str)
def test_sums_are_those_of_the_reference_and_leave_out_indices_that_name_no_code(
    shape: tuple[int, int, int],
) -> None:
    num_latents, num_codes, dim = shape
    latents, indices = torch.randn(num_latents, dim), torch.randint(-1, num_codes + 2, (num_latents,))
    named = (indices >= 0) & (indices < num_codes)
    counts, sums = vq_kernel.code_sums(latents, indices, num_codes)
    expected_counts, expected_sums = vq_reference.code_sums(latents[named], indices[named], num_codes)
    assert torch.equal(counts, expected_counts)
    torch.testing.assert_close(sums.double(), expected_sums, rtol=1e-5, atol=1e-5)


def away_from_boundaries(latents: Tensor, levels: tuple[int, ...]) -> Tensor:
    """The rows whose rounding the last bits of tanh cannot turn."""
    fraction = fsq_reference.bound(latents.double(), levels).frac().abs()
    return ((fraction - 0.5).abs() > 1e-4).all(dim=-1)


@pytest.mark.parametrize("levels", [(2,), (8, 5, 5, 5), (7, 5, 5, 5, 5), (2,) * 31], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_fsq_is_the_reference(levels: tuple[int, ...], dtype: torch.dtype) -> None:
    latents = (2 * torch.randn(len(levels), 90).T).to(dtype)
    latents = latents[away_from_boundaries(latents, levels)]
    quantized, indices = fsq_kernel.fsq(latents, levels)
    expected, expected_indices = fsq_reference.fsq(latents.to(quantized.dtype), levels)
    assert len(latents) > 50
    assert torch.equal(quantized, expected) and torch.equal(indices, expected_indices)


def test_fsq_rounds_half_to_even() -> None:
    # at level 2 a bound of exactly -0.5 lies at tanh = 0, where both paths are exact
    latents = torch.zeros(1, 1) - torch.tensor(
        fsq_kernel.channels((2,), torch.float32, torch.device("cpu")).shift
    )
    assert torch.equal(fsq_kernel.fsq(latents, (2,))[1], fsq_reference.fsq(latents, (2,))[1])


def test_a_bad_latent_gets_minus_one() -> None:
    latents = torch.zeros(5, 3)
    latents[1, 2], latents[3, 0] = float("nan"), float("inf")
    quantized, indices = fsq_kernel.fsq(latents, (3, 3, 3))
    assert indices.tolist() == [13, -1, 13, -1, 13]
    assert quantized.isnan().nonzero().tolist() == [[1, 2], [3, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_gradient_is_the_references(dtype: torch.dtype) -> None:
    levels = (8, 5, 2)
    latents = torch.randn(3, 50).T.to(dtype)
    exact = latents.double().requires_grad_()
    upstream = torch.randn(50, 3)
    fsq_reference.fsq(exact, levels)[0].backward(upstream.double())
    below = fsq_kernel.fsq_backward(upstream.to(dtype), latents, levels)
    assert below.dtype == dtype
    torch.testing.assert_close(
        below, exact.grad.to(dtype), rtol=0.02 if dtype == torch.bfloat16 else 1e-4, atol=1e-5
    )
