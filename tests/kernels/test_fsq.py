"""The PyTorch path of fsq and fsq_decode against the reference, its gradient, and the exactness of its indices."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vistok_kernels import fsq, fsq_decode
from vistok_kernels.fsq import reference

LEVELS = [(2,), (3,), (8, 5, 5, 5), (7, 5, 5, 5, 5), (8, 8, 8, 6, 5), (2,) * 18, (4,) * 31]


@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("batch", [(), (0,), (13,), (2, 3, 5)], ids=str)
def test_values_and_indices_are_those_of_the_reference(
    levels: tuple[int, ...], batch: tuple[int, ...]
) -> None:
    latents = 2 * torch.randn(*batch, len(levels))
    quantized, indices = fsq(latents, levels)
    expected, expected_indices = reference.fsq(latents, levels)
    assert quantized.dtype == torch.float32 and indices.dtype == torch.int64
    assert torch.equal(quantized, expected) and torch.equal(indices, expected_indices)


@settings(max_examples=40, deadline=None)
@given(levels=st.lists(st.integers(2, 64), min_size=1, max_size=10), seed=st.integers(0, 2**31))
def test_decoding_gives_back_the_quantized_values_bit_for_bit(levels: list[int], seed: int) -> None:
    latents = 3 * torch.randn(40, len(levels), generator=torch.Generator().manual_seed(seed))
    quantized, indices = fsq(latents, levels)
    assert torch.equal(fsq_decode(indices, levels), quantized)
    assert float(quantized.abs().max()) <= 1
    assert int(indices.min()) >= 0 and int(indices.max()) < math.prod(levels)


@pytest.mark.parametrize("levels", [(2,), (3, 2), (8, 5), (5, 4, 3)], ids=str)
def test_every_code_is_reached_and_survives_a_round_trip(levels: tuple[int, ...]) -> None:
    reach = torch.linspace(-8, 8, 400)
    _, seen = fsq(
        torch.cartesian_prod(*[reach[:: 1 if len(levels) == 1 else 8]] * len(levels)).view(-1, len(levels)),
        levels,
    )
    every = torch.arange(math.prod(levels))
    assert torch.equal(seen.unique(), every)
    assert torch.equal(reference.fsq_decode(every, levels), fsq_decode(every, levels))


def test_indices_are_exact_at_the_largest_codebook() -> None:
    levels = (2,) * 62
    last = torch.tensor([2**62 - 1, 2**62 - 2, 2**53 + 1])
    decoded = fsq_decode(last, levels)
    # level 2 decodes to -1 and 0
    bits = (decoded + 1).long()
    assert torch.equal((bits << torch.arange(62)).sum(dim=1), last)
    assert torch.equal(fsq(torch.full((1, 62), 9.0), levels)[1], last[:1])


def test_the_first_level_is_the_least_significant() -> None:
    assert fsq_decode(torch.tensor([1]), (8, 5)).tolist() == [[-0.75, -1.0]]


def test_the_bound_is_the_papers() -> None:
    latents = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    half = torch.tensor([7 * 0.999 / 2, 4 * 0.999 / 2], dtype=torch.float64)
    offset = torch.tensor([0.5, 0.0], dtype=torch.float64)
    expected = torch.tanh(latents + torch.tan(offset / half)) * half - offset
    torch.testing.assert_close(reference.bound(latents, (8, 5)), expected, rtol=1e-14, atol=0)


def test_the_reference_bound_has_the_gradient_that_autograd_gives_it() -> None:
    latents = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: reference.bound(x, (8, 5, 2)), latents)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_gradient_passes_the_rounding_and_is_the_bounds(dtype: torch.dtype) -> None:
    levels = (8, 5, 2)
    latents = torch.randn(50, 3, dtype=torch.float64).to(dtype).requires_grad_()
    quantized, indices = fsq(latents, levels)
    assert not indices.requires_grad
    upstream = torch.randn_like(quantized)
    quantized.backward(upstream)
    exact = latents.detach().double().requires_grad_()
    (reference.bound(exact, levels) / torch.tensor([4, 2, 1])).backward(upstream.double())
    assert latents.grad is not None and latents.grad.dtype == dtype
    torch.testing.assert_close(
        latents.grad, exact.grad.to(dtype), rtol=0.02 if dtype == torch.bfloat16 else 1e-5, atol=1e-6
    )


def test_half_precisions_reach_the_codes_that_their_values_have() -> None:
    latents = torch.randn(500, 4).bfloat16()
    assert torch.equal(fsq(latents, (8, 5, 5, 5))[1], fsq(latents.float(), (8, 5, 5, 5))[1])


def test_strided_latents_are_read_and_left_as_they_are() -> None:
    latents = torch.randn(2, 4, 6, 5).permute(0, 2, 3, 1)
    before = latents.clone()
    quantized, indices = fsq(latents, (8, 5, 5, 5))
    assert torch.equal(latents, before)
    assert torch.equal(quantized, fsq(latents.contiguous(), (8, 5, 5, 5))[0]) and indices.shape == (2, 6, 5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_latent_is_named_with_a_remedy(value: float) -> None:
    latents = torch.zeros(3, 2)
    latents[1, 1] = value
    with pytest.raises(ValueError, match=r"^latents contain NaN or Inf; .+"):
        fsq(latents, (3, 3))


def test_arguments_that_do_not_fit_are_refused() -> None:
    for call, reason in [
        (lambda: fsq(torch.zeros(3, 2), (8, 1)), "at least 2"),
        (lambda: fsq(torch.zeros(3, 0), ()), "at least one"),
        (lambda: fsq(torch.zeros(3, 63), (2,) * 63), r"2\^62"),
        (lambda: fsq(torch.zeros(3, 2), (8, 5, 5)), "last dimension must be 3"),
        (lambda: fsq(torch.zeros(3, 2).int(), (8, 5)), "floating-point"),
        (lambda: fsq_decode(torch.tensor([40]), (8, 5)), r"codes \[0, 40\)"),
        (lambda: fsq_decode(torch.tensor([-1]), (8, 5)), r"codes \[0, 40\)"),
    ]:
        with pytest.raises(ValueError, match=reason):
            call()


def test_ops_keep_the_contract_of_custom_ops() -> None:
    latents = torch.randn(20, 2, requires_grad=True)
    torch.library.opcheck(torch.ops.vistok_kernels.fsq, (latents, [8, 5]))
    torch.library.opcheck(torch.ops.vistok_kernels.fsq, (torch.randn(2, 20).T, [8, 5]))
    torch.library.opcheck(
        torch.ops.vistok_kernels.fsq_backward, (torch.randn(20, 2), latents.detach(), [8, 5])
    )


def test_compiled_values_and_gradients_equal_eager_ones() -> None:
    def quantize(latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        quantized, indices = fsq(latents, (8, 5, 5))
        return quantized, indices, fsq_decode(indices, (8, 5, 5))

    results = []
    for run in (quantize, torch.compile(quantize, fullgraph=True, backend="aot_eager")):
        latents = torch.linspace(-2, 2, 60).view(4, 5, 3).requires_grad_()
        quantized, indices, decoded = run(latents)
        quantized.square().sum().backward()
        results.append((quantized.detach(), indices, decoded, latents.grad))
    for eager, compiled in zip(*results, strict=True):
        assert torch.equal(eager, compiled)
