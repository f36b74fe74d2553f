"""Attention over a codebook against the dense reference: values, gradients, memory, and the rules that it promises."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vistok_kernels import (
    codebook_attention,
    codebook_entropy,
    codebook_probabilities,
    distribution_entropy,
    index_softmax,
)
from vistok_kernels.attention import METRICS, _scores, ops, reference

# across and within the blocks of the PyTorch path, 256 latents and 2048 codes
SHAPES = [(1, 1, 1), (7, 3, 4), (300, 2500, 5), (20, 2049, 18)]


def compare(
    found: tuple[Tensor, ...], expected: tuple[Tensor, ...], inputs: list[Tensor], rtol: float, atol: float
) -> None:
    """Values, indices, and gradients of a random weighing of the values."""
    totals = []
    for results in (found, expected):
        torch.manual_seed(1)
        parts = [(part * torch.randn_like(part)).sum() for part in results if part.is_floating_point()]
        totals.append(torch.stack([part.double() for part in parts]).sum())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.to(one.dtype), rtol=rtol, atol=atol)
    gradients, exact = (torch.autograd.grad(total, inputs) for total in totals)
    for one, other in zip(gradients, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["codebook_attention", "index_softmax", "codebook_entropy"])
def test_values_and_gradients_are_those_of_the_dense_reference(
    name: str, shape: tuple[int, int, int], metric: str
) -> None:
    op = {"codebook_attention": codebook_attention, "index_softmax": index_softmax}.get(
        name, codebook_entropy
    )
    num_latents, num_codes, dim = shape
    latents = torch.randn(num_latents, dim, dtype=torch.float64, requires_grad=True)
    codebook = torch.randn(num_codes, dim, dtype=torch.float64, requires_grad=True)
    expected = getattr(reference, name)(latents, codebook, 0.7, metric)
    compare(op(latents, codebook, 0.7, metric), expected, [latents, codebook], 1e-9, 1e-11)


def test_index_softmax_in_float32_has_the_dense_gradients_to_1e_5() -> None:
    latents, codebook = torch.randn(64, 32, requires_grad=True), torch.randn(4096, 32, requires_grad=True)
    double = [tensor.detach().double().requires_grad_() for tensor in (latents, codebook)]
    upstream = torch.randn(64, 32)
    index_softmax(latents, codebook, 1.0)[0].backward(upstream)
    reference.index_softmax(*double, 1.0)[0].backward(upstream.double())
    for single, exact in zip((latents, codebook), double, strict=True):
        assert single.grad is not None and exact.grad is not None
        assert float((single.grad - exact.grad).abs().max()) < 1e-5 * float(exact.grad.abs().max())
    assert (codebook.grad.abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("metric", METRICS)
def test_ops_and_references_have_the_gradients_that_differences_give(metric: str) -> None:
    latents = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    codebook = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    for attend in (codebook_attention, reference.codebook_attention):
        assert torch.autograd.gradcheck(
            lambda z, e, of=attend: of(z, e, 0.9, metric)[:2], (latents, codebook)
        )
    for entropy in (codebook_entropy, reference.codebook_entropy):
        assert torch.autograd.gradcheck(lambda z, e, of=entropy: of(z, e, 0.9, metric), (latents, codebook))


@pytest.mark.parametrize("needs", [(True, False), (False, True)])
def test_only_the_gradients_that_are_wanted_are_given(needs: tuple[bool, bool]) -> None:
    tensors = [torch.randn(n, 3, requires_grad=need) for n, need in zip((20, 30), needs, strict=True)]
    sample, batch = codebook_entropy(*tensors, 1.0, "euclid")
    (
        index_softmax(*tensors, 1.0)[0].sum() + codebook_attention(*tensors, 1.0)[1].sum() + sample - batch
    ).backward()
    assert [tensor.grad is not None for tensor in tensors] == list(needs)


def test_ties_take_the_lowest_index_within_and_across_blocks() -> None:
    codebook = torch.randn(1024, 3).repeat(5, 1)
    for metric in METRICS:
        assert int(codebook_attention(torch.randn(300, 3), codebook, 1.0, metric)[2].max()) < 1024
    assert int(index_softmax(torch.zeros(2, 3), codebook, 1.0)[1].max()) == 0


def test_large_scores_and_far_latents_lose_nothing() -> None:
    codebook = torch.randn(200, 8) + 1e4
    values, logsumexp, indices = codebook_attention(codebook, codebook, 100.0, "euclid")
    assert torch.equal(indices, torch.arange(200))
    torch.testing.assert_close(values, codebook)
    torch.testing.assert_close(logsumexp, torch.zeros(200), rtol=0, atol=1e-2)
    sample, batch = codebook_entropy(codebook, codebook, 100.0, "euclid")
    torch.testing.assert_close(
        (sample, batch), (torch.tensor(0.0), torch.tensor(math.log(200))), rtol=1e-5, atol=1e-5
    )


def test_zero_vectors_have_cosine_0_and_finite_gradients() -> None:
    latents, codebook = torch.zeros(2, 4, requires_grad=True), torch.randn(6, 4)
    codebook[2] = 0
    codebook.requires_grad_()
    values, logsumexp, _ = codebook_attention(latents, codebook, 5.0, "cosine")
    torch.testing.assert_close(logsumexp, torch.full((2,), math.log(6)))
    values.sum().backward()
    assert latents.grad.isfinite().all() and codebook.grad.isfinite().all()


def test_probabilities_of_parts_average_to_those_of_the_whole() -> None:
    latents, codebook = torch.randn(40, 8), torch.randn(50, 8)
    parts = torch.stack([codebook_probabilities(half, codebook, 1.0)[1] for half in latents.chunk(2)])
    sample, whole = codebook_probabilities(latents, codebook, 1.0)
    torch.testing.assert_close(parts.mean(dim=0), whole)
    expected = codebook_entropy(latents, codebook, 1.0)
    torch.testing.assert_close((sample, distribution_entropy(whole)), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precisions_are_widened(dtype: torch.dtype) -> None:
    latents, codebook = torch.randn(20, 6).to(dtype).requires_grad_(), torch.randn(30, 6)
    found = index_softmax(latents, codebook, 2.0)
    expected = index_softmax(latents.float(), codebook, 2.0)
    assert found[0].dtype == torch.float32 and torch.equal(found[0], expected[0])
    found[0].sum().backward()
    assert latents.grad is not None and latents.grad.dtype == dtype


def test_no_latents_and_strided_ones_are_read_and_inputs_stay_as_they_are() -> None:
    codebook = torch.randn(36, 30).T[:, ::2].requires_grad_()
    latents = torch.randn(18, 40).T
    before = latents.clone(), codebook.detach().clone()
    for metric in METRICS:
        found = codebook_attention(latents, codebook, 1.0, metric)
        expected = reference.codebook_attention(latents, codebook, 1.0, metric)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        empty = codebook_attention(latents[:0], codebook, 1.0, metric)
        assert [tuple(part.shape) for part in empty] == [(0, 18), (0,), (0,)]
        (empty[0].sum() + sum(codebook_entropy(latents[:0], codebook, 1.0, metric))).backward()
    assert torch.equal(latents, before[0]) and torch.equal(codebook, before[1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_values_are_named_with_a_remedy(value: float, metric: str) -> None:
    good, bad = torch.zeros(3, 2), torch.zeros(3, 2)
    bad[1, 1] = value
    for call in (codebook_attention, index_softmax, codebook_entropy):
        with pytest.raises(ValueError, match=r"^(latents|codebook values) contain NaN or Inf; .+"):
            call(bad, good, 1.0, metric)
        with pytest.raises(ValueError, match=r"contain NaN or Inf; .+"):
            call(good, bad, 1.0, metric)


def test_arguments_that_do_not_fit_are_refused() -> None:
    latents, codebook = torch.zeros(3, 2), torch.zeros(5, 2)
    for call, reason in [
        (lambda: codebook_attention(latents, codebook, 1.0, "l1"), "metric"),
        (lambda: codebook_attention(latents, codebook, 0.0), "above 0"),
        (lambda: index_softmax(latents, torch.zeros(5, 3), 1.0), "of one D"),
        (lambda: index_softmax(latents, torch.zeros(0, 2), 1.0), "at least one code"),
        (lambda: codebook_entropy(latents.int(), codebook, 1.0), "floating-point"),
        (lambda: codebook_attention(latents + 1e30, codebook + 1e30, 1.0), "scores of latents and codes"),
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


@pytest.mark.parametrize("metric", METRICS)
def test_no_tensor_is_as_large_as_latents_times_codes(metric: str) -> None:
    latents, codebook = torch.randn(700, 4, requires_grad=True), torch.randn(9000, 4, requires_grad=True)
    with LargestTensor() as seen:
        codes, _ = index_softmax(latents, codebook, 1.0, metric)
        sample, batch = codebook_entropy(latents, codebook, 1.0, metric)
        (codes.sum() + sample - batch).backward()
    assert seen.most <= 256 * 2048


@pytest.mark.parametrize("metric", METRICS)
def test_ops_keep_the_contract_of_custom_ops(metric: str) -> None:
    latents, codebook = torch.randn(6, 3, requires_grad=True), torch.randn(9, 3, requires_grad=True)
    scores = [
        part if part is None else part.detach().requires_grad_()
        for part in _scores(latents, codebook, 0.7, metric)[0]
    ]
    torch.library.opcheck(ops.attention, (*scores, True))
    torch.library.opcheck(ops.attention, (*scores, False))
    torch.library.opcheck(ops.statistics, tuple(scores))
    plain = [part if part is None else part.detach() for part in scores]
    logsumexp = ops.attention(*plain, True)[1]
    torch.library.opcheck(ops._expectations, (*plain, logsumexp, torch.randn(9)))
    rest = (logsumexp, torch.randn(6), torch.randn(6, 3), torch.randn(6), torch.randn(9))
    torch.library.opcheck(ops._backward, (*plain, *rest, True, True))
    torch.library.opcheck(ops._backward, (*plain, *rest, False, False))


def test_compiled_values_and_gradients_equal_eager_ones() -> None:
    def run(latents: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
        codes, indices = index_softmax(latents, codebook, 1.0, "cosine")
        values, logsumexp, _ = codebook_attention(latents, codebook, 1.0)
        sample, batch = codebook_entropy(latents, codebook, 1.0, "euclid")
        return codes.square().sum() + values.sum() + logsumexp.sum() + sample - batch, indices

    results = []
    for function in (run, torch.compile(run, fullgraph=True, backend="aot_eager")):
        latents = torch.linspace(-2, 2, 30).view(10, 3).requires_grad_()
        codebook = torch.linspace(-3, 1, 21).view(7, 3).cos().requires_grad_()
        total, indices = function(latents, codebook)
        total.backward()
        results.append((total.detach(), indices, latents.grad, codebook.grad))
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(eager, compiled, rtol=1e-6, atol=1e-6)


def test_a_callers_autocast_changes_nothing() -> None:
    latents, codebook = torch.randn(30, 8), torch.randn(40, 8)
    for metric in METRICS:
        with torch.autocast("cpu", torch.bfloat16):
            inside = codebook_attention(latents, codebook, 1.0, metric)
        assert all(map(torch.equal, inside, codebook_attention(latents, codebook, 1.0, metric)))
