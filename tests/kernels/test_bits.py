"""The bit ops against the dense softmax over all codes, their gradients, and the rules that they promise."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vistok_kernels import (
    bit_entropy,
    bit_indices,
    bit_probabilities,
    bits_from_indices,
    code_entropy,
    distribution_entropy,
    factorised_entropy,
    grouped_entropy,
    pack_bits,
)
from vistok_kernels.bits import reference

ENTROPIES = {
    "bit": (bit_entropy, reference.bit_entropy),
    "code": (code_entropy, reference.code_entropy),
    "factorised": (factorised_entropy, lambda z, s: reference.grouped_entropy(z, s, 1)),
    "groups of 2": (lambda z, s: grouped_entropy(z, s, 2), lambda z, s: reference.grouped_entropy(z, s, 2)),
    "groups of 3": (lambda z, s: grouped_entropy(z, s, 3), lambda z, s: reference.grouped_entropy(z, s, 3)),
}


@pytest.mark.parametrize("name", ENTROPIES)
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("shape", [(1, 6), (77, 6), (5, 4, 6)], ids=str)
def test_entropies_and_gradients_are_those_of_the_softmax_over_all_codes(
    name: str, scale: float, shape: tuple[int, ...]
) -> None:
    of, dense = ENTROPIES[name]
    latents = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    found, expected = of(latents, scale), dense(latents.reshape(-1, 6), scale)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    (below,), (exact,) = (torch.autograd.grad(value, latents) for value in (found, expected))
    torch.testing.assert_close(below, exact, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("num_bits", [1, 2, 5])
def test_the_references_have_the_gradients_that_differences_give(num_bits: int) -> None:
    latents = torch.randn(4, num_bits, dtype=torch.float64, requires_grad=True)
    for function in (reference.bit_entropy, reference.code_entropy):
        assert torch.autograd.gradcheck(lambda z, of=function: of(z, 0.7), latents)
    for function in (bit_entropy, code_entropy, factorised_entropy):
        assert torch.autograd.gradcheck(lambda z, of=function: of(z, 0.7), latents)


def test_entropies_are_those_of_vector_quantize_pytorch() -> None:
    package = pytest.importorskip("vector_quantize_pytorch")
    lfq = package.LFQ(codebook_size=16, dim=4, entropy_loss_weight=1.0).train()
    # its logarithm stops at 1e-5: probabilities stay above at this temperature
    latents, scale = 0.5 * torch.randn(1, 60, 4), 0.5
    _, found = lfq(latents, inv_temperature=scale, return_loss_breakdown=True)
    torch.testing.assert_close(bit_entropy(latents, scale), found.per_sample_entropy, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(code_entropy(latents, scale), found.batch_entropy, rtol=1e-5, atol=1e-6)


def test_groups_lie_between_the_exact_and_the_factorised_entropy() -> None:
    latents = torch.randn(30, 12) + torch.randn(30, 1)
    ordered = [
        code_entropy(latents, 1.0),
        *(grouped_entropy(latents, 1.0, g) for g in (6, 3)),
        factorised_entropy(latents, 1.0),
    ]
    assert all(float(lower) < float(upper) for lower, upper in pairwise(ordered))
    torch.testing.assert_close(grouped_entropy(latents, 1.0, 12), ordered[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_precisions_are_widened(dtype: torch.dtype) -> None:
    latents = torch.randn(50, 9).to(dtype).requires_grad_()
    exact = latents.detach().double().requires_grad_()
    for function in (bit_entropy, code_entropy):
        found, expected = function(latents, 2.0), function(exact, 2.0)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
        (below,), (above,) = torch.autograd.grad(found, latents), torch.autograd.grad(expected, exact)
        assert below.dtype == dtype
        torch.testing.assert_close(
            below, above.to(dtype), rtol=1e-4 if dtype == torch.float32 else 0.02, atol=1e-6
        )


@pytest.mark.parametrize("scale", [100.0, 1e30])
def test_sharp_distributions_have_finite_entropies_and_gradients(scale: float) -> None:
    latents = (torch.randn(64, 12) * 3).requires_grad_()
    total = bit_entropy(latents, scale) - code_entropy(latents, scale)
    total.backward()
    assert total.isfinite() and latents.grad is not None and latents.grad.isfinite().all()
    counts = bit_indices(latents).unique(return_counts=True)[1] / 64
    torch.testing.assert_close(code_entropy(latents, 1e30), distribution_entropy(counts))


def test_probabilities_of_parts_average_to_those_of_the_whole() -> None:
    latents = torch.randn(40, 8)
    parts = torch.stack([bit_probabilities(half, 1.0, 4) for half in latents.chunk(2)])
    whole = bit_probabilities(latents, 1.0, 4)
    assert whole.shape == (2, 16)
    torch.testing.assert_close(parts.mean(dim=0), whole)
    torch.testing.assert_close(whole.sum(dim=1), torch.ones(2))
    torch.testing.assert_close(distribution_entropy(whole).sum(), grouped_entropy(latents, 1.0, 4))


@settings(max_examples=40, deadline=None)
@given(num_bits=st.integers(1, 62), seed=st.integers(0, 2**31))
def test_bits_and_indices_are_inverse(num_bits: int, seed: int) -> None:
    latents = torch.randn(3, 5, num_bits, generator=torch.Generator().manual_seed(seed))
    indices = bit_indices(latents)
    assert indices.dtype == torch.int64
    assert torch.equal(indices, reference.bit_indices(latents))
    bits = bits_from_indices(indices, num_bits)
    assert torch.equal(bits, torch.where(latents > 0, 1.0, -1.0))
    assert torch.equal(bits, reference.bits_from_indices(indices, num_bits))


def test_the_first_channel_is_the_most_significant_and_zero_is_negative() -> None:
    assert bit_indices(torch.tensor([[1.0, -1.0, 0.0], [-0.0, 1e-45, 2.0]])).tolist() == [4, 3]
    assert bits_from_indices(torch.tensor(2**62 - 2), 62).tolist() == [1.0] * 61 + [-1.0]
    assert bit_indices(torch.tensor([[1e-300]], dtype=torch.float64)).tolist() == [1]


def test_packing_with_entropy_is_both() -> None:
    latents = torch.randn(7, 3, 18, requires_grad=True)
    indices, entropy = pack_bits(latents, 0.5)
    assert torch.equal(indices, bit_indices(latents)) and not indices.requires_grad
    torch.testing.assert_close(entropy, bit_entropy(latents, 0.5))
    torch.testing.assert_close(
        torch.autograd.grad(entropy, latents)[0], torch.autograd.grad(bit_entropy(latents, 0.5), latents)[0]
    )


def test_more_bits_than_an_index_holds_still_have_entropies() -> None:
    latents = torch.randn(9, 128)
    expected = sum(reference.bit_entropy(part, 1.0) for part in latents.double().split(8, dim=1))
    torch.testing.assert_close(bit_entropy(latents, 1.0).double(), expected, rtol=1e-5, atol=1e-5)
    assert 0 < float(grouped_entropy(latents, 1.0, 8)) <= 128 * math.log(2)


def test_no_latents_have_no_entropy_and_strided_ones_are_read() -> None:
    empty = torch.empty(0, 5, requires_grad=True)
    (bit_entropy(empty, 1.0) + code_entropy(empty, 1.0)).backward()
    assert bit_indices(empty).shape == (0,)
    latents = torch.randn(2, 6, 4, 5).permute(0, 2, 3, 1)
    for function in (bit_entropy, code_entropy):
        torch.testing.assert_close(function(latents, 1.0), function(latents.contiguous(), 1.0))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_latent_is_named_with_a_remedy(value: float) -> None:
    latents = torch.zeros(3, 2)
    latents[1, 1] = value
    for call in (
        lambda: bit_indices(latents),
        lambda: bit_entropy(latents, 1.0),
        lambda: code_entropy(latents, 1.0),
        lambda: pack_bits(latents, 1.0),
    ):
        with pytest.raises(ValueError, match=r"^latents contain NaN or Inf; .+"):
            call()


def test_arguments_that_do_not_fit_are_refused() -> None:
    latents = torch.zeros(3, 6)
    for call, reason in [
        (lambda: bit_indices(torch.zeros(3, 63)), "1 to 62"),
        (lambda: bit_indices(torch.zeros(3, 0)), "last dimension"),
        (lambda: bit_indices(latents.int()), "floating-point"),
        (lambda: bit_entropy(latents, 0.0), "above 0"),
        (lambda: grouped_entropy(latents, 1.0, 4), "divide the 6 channels"),
        (lambda: code_entropy(torch.zeros(3, 30), 1.0), "grouped_entropy"),
        (lambda: bits_from_indices(torch.tensor([4]), 2), r"codes \[0, 4\)"),
        (lambda: bits_from_indices(torch.tensor([-1]), 2), r"codes \[0, 4\)"),
        (lambda: bits_from_indices(torch.tensor([1]), 0), "1 to 62"),
    ]:
        with pytest.raises(ValueError, match=reason):
            call()


class LargestTensor(TorchDispatchMode):
    """Notes the most values that any tensor had."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, (tuple, list)) else [result]:
            self.most = max(self.most, part.numel() if isinstance(part, Tensor) else 0)
        return result


def test_no_tensor_is_as_large_as_latents_times_codes() -> None:
    latents = torch.randn(512, 16, requires_grad=True)
    with LargestTensor() as seen:
        code_entropy(latents, 1.0).backward()
    assert seen.most <= 2**19 < 512 * 2**16


def test_ops_keep_the_contract_of_custom_ops() -> None:
    ops, latents = torch.ops.vistok_kernels, torch.randn(20, 6, requires_grad=True)
    torch.library.opcheck(ops.bit_pack, (latents, 0.5, True, True))
    torch.library.opcheck(ops.bit_pack, (latents.detach(), 1.0, True, False))
    torch.library.opcheck(ops.bit_entropies_backward, (torch.randn(20), latents.detach(), 0.5))
    torch.library.opcheck(ops.bit_probabilities, (latents, 0.5, 3))
    torch.library.opcheck(ops.bit_probabilities_backward, (torch.randn(2, 8), latents.detach(), 0.5, 3))


def test_compiled_values_and_gradients_equal_eager_ones() -> None:
    def run(latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        indices, entropy = pack_bits(latents, 0.5)
        return entropy - code_entropy(latents, 0.5), indices, bits_from_indices(indices, 6)

    results = []
    for function in (run, torch.compile(run, fullgraph=True, backend="aot_eager")):
        latents = torch.linspace(-2, 2, 60).view(10, 6).requires_grad_()
        total, indices, bits = function(latents)
        total.backward()
        results.append((total.detach(), indices, bits, latents.grad))
    for eager, compiled in zip(*results, strict=True):
        assert torch.equal(eager, compiled)


def test_a_callers_autocast_changes_nothing() -> None:
    latents = torch.randn(30, 8)
    with torch.autocast("cpu", torch.bfloat16):
        inside = code_entropy(latents, 1.0)
    assert torch.equal(inside, code_entropy(latents, 1.0))
