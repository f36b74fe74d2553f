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

from vistok_kernels.attention import METRICS, _scores
from vistok_kernels.attention import blocked as attention_blocked
from vistok_kernels.attention import launch as attention_launch
from vistok_kernels.attention.blocked import Upstream
from vistok_kernels.bits import blocked as bits_blocked
from vistok_kernels.bits import kernel as bits_kernel
from vistok_kernels.bits import reference as bits_reference
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("num_bits", [1, 18, 62])
def test_packed_signs_and_their_entropies_are_those_of_pytorch(num_bits: int, dtype: torch.dtype) -> None:
    latents = torch.randn(num_bits, 90).T.to(dtype)
    latents[3] = 0
    entropies, indices = bits_kernel.bit_pack(latents, 0.6, True, True)
    assert torch.equal(indices, bits_reference.bit_indices(latents))
    expected = bits_blocked.bit_entropies(latents, 0.6)
    assert entropies.dtype == expected.dtype
    torch.testing.assert_close(entropies, expected, rtol=1e-5, atol=1e-6)
    upstream = torch.randn(90)
    torch.testing.assert_close(
        bits_kernel.bit_entropies_backward(upstream, latents, 0.6),
        bits_blocked.bit_entropies_backward(upstream, latents, 0.6),
        rtol=0.02 if dtype == torch.bfloat16 else 1e-4,
        atol=1e-6,
    )


def test_only_what_is_asked_for_of_the_bits_is_computed() -> None:
    latents = torch.randn(5, 100)
    entropies, indices = bits_kernel.bit_pack(latents, 1e30, False, True)
    assert indices.shape == (0,) and entropies.isfinite().all()
    assert bits_kernel.bit_pack(latents[:, :9], 1.0, True, False)[0].shape == (0,)
    assert bits_kernel.bit_pack(latents[:0, :9], 1.0, True, True)[1].shape == (0,)
    assert bits_kernel.bit_entropies_backward(entropies, latents, 1e30).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_latent_has_no_index_and_no_entropy(value: float, dtype: torch.dtype) -> None:
    latents = torch.ones(5, 3, dtype=dtype)
    latents[1, 2] = value
    entropies, indices = bits_kernel.bit_pack(latents, 1.0, True, True)
    assert indices.tolist() == [7, -1, 7, 7, 7]
    assert entropies.isnan().nonzero().tolist() == [[1]]
    assert bits_blocked.mean_probabilities(latents, 1.0, 3).isnan().all()


ATTENTION_SHAPES = [(70, 70, 5), (3, 37, 70)]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", ATTENTION_SHAPES, ids=str)
def test_attention_is_that_of_pytorch(shape: tuple[int, int, int], metric: str) -> None:
    num_latents, num_codes, dim = shape
    of, _, _ = _scores(torch.randn(num_latents, dim), torch.randn(num_codes, dim) / 2, 0.8, metric)
    values, logsumexp, indices = attention_launch.attention(of, True)
    expected = attention_blocked.attention(of, True)
    torch.testing.assert_close((values, logsumexp), expected[:2], rtol=1e-4, atol=1e-5)
    assert torch.equal(indices, expected[2])
    assert torch.equal(attention_launch.attention(of, False)[1], logsumexp)
    torch.testing.assert_close(
        attention_launch.statistics(of, logsumexp),
        attention_blocked.statistics(of, logsumexp),
        rtol=1e-4,
        atol=1e-5,
    )
    weights = torch.randn(num_codes)
    torch.testing.assert_close(
        attention_launch.expectations(of, logsumexp, weights),
        attention_blocked.expectations(of, logsumexp, weights),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", ATTENTION_SHAPES, ids=str)
def test_the_gradients_of_attention_are_those_of_pytorch(shape: tuple[int, int, int], metric: str) -> None:
    num_latents, num_codes, dim = shape
    of, _, _ = _scores(torch.randn(num_latents, dim), torch.randn(num_codes, dim) / 2, 0.8, metric)
    logsumexp = attention_blocked.attention(of, False)[1]
    row, value = torch.randn(num_latents), torch.randn(num_latents, dim)
    for upstream, for_codebook, soft in (
        (Upstream(row, value, None, None), True, True),
        (Upstream(row, value, None, None), True, False),
        (Upstream(row, None, torch.randn(num_latents), torch.randn(num_codes)), True, False),
        (Upstream(row, None, None, None), False, False),
    ):
        arguments = (of, logsumexp, upstream, for_codebook, soft)
        torch.testing.assert_close(
            tuple(attention_launch.backward(*arguments)),
            tuple(attention_blocked.backward(*arguments)),
            rtol=1e-4,
            atol=2e-5,
        )


def test_attention_takes_the_lowest_of_equal_codes_across_splits() -> None:
    codebook = torch.randn(40, 3).repeat(8, 1)
    of, _, _ = _scores(torch.randn(5, 3), codebook, 1.0, "dot")
    assert int(attention_launch.attention(of, False)[2].max()) < 40


def test_attention_of_no_latents_is_empty() -> None:
    of, _, _ = _scores(torch.randn(0, 3), torch.randn(7, 3), 1.0, "euclid")
    values, logsumexp, indices = attention_launch.attention(of, True)
    assert values.shape == (0, 3) and logsumexp.shape == indices.shape == (0,)
    entropies, mean = attention_launch.statistics(of, logsumexp)
    assert entropies.shape == (0,) and torch.equal(mean, torch.zeros(7))
    found = attention_launch.backward(of, logsumexp, Upstream(logsumexp, values, None, None), True, True)
    assert found.codebook.eq(0).all() and found.bias.eq(0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_attention_marks_a_bad_latent_and_all_of_a_bad_codebook(value: float) -> None:
    latents, codebook = torch.randn(5, 3), torch.randn(70, 3)
    expected = attention_launch.attention(_scores(latents, codebook, 1.0, "dot")[0], True)
    latents[2, 1] = value
    for found, right in zip(
        attention_launch.attention(_scores(latents, codebook, 1.0, "dot")[0], True), expected, strict=True
    ):
        bad = found[2].isnan().all() if found.is_floating_point() else found[2] == -1
        assert bad and torch.equal(found[:2], right[:2]) and torch.equal(found[3:], right[3:])
    codebook[66, 0] = value
    values, logsumexp, indices = attention_launch.attention(_scores(latents, codebook, 1.0, "dot")[0], True)
    assert values.isnan().all() and logsumexp.isnan().all() and indices.eq(-1).all()
