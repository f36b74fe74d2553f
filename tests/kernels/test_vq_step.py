"""The training step's op on the CPU against the reference, its gradients, and what it promises of its results."""

import pytest
import torch
from torch import Tensor

from vistok_kernels import nearest_code, vq_step
from vistok_kernels.vq import reference


@pytest.mark.parametrize("metric", ["euclid", "cosine"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (0, 3, 2), (257, 30, 4), (40, 1500, 33)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_step_is_the_references(shape: tuple[int, int, int], metric: str, dtype: torch.dtype) -> None:
    num_latents, num_codes, dim = shape
    latents, codebook = torch.randn(num_latents, dim).to(dtype), torch.randn(num_codes, dim).to(dtype)
    results = vq_step(latents, codebook, metric)
    for result, correct in zip(results, reference.vq_step(latents, codebook, metric), strict=True):
        torch.testing.assert_close(result.double(), correct.double(), rtol=1e-5, atol=1e-4)
    codes, indices, error, counts, sums = results
    assert codes.dtype == dtype and torch.equal(codes, codebook[indices])
    assert error.dtype == torch.promote_types(dtype, torch.float32)
    assert indices.dtype == counts.dtype == torch.int64 and sums.dtype == torch.float32


def losses(step: object, latents: Tensor, codebook: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """A straight-through output's square, and the commitment loss with the codebook loss."""
    codes, _, error, _, _ = step(latents, codebook, metric)  # type: ignore[operator]
    through = latents + (codes - latents).detach()
    return through.square().sum(), error + 3 * (codes - latents.detach()).square().sum()


@pytest.mark.parametrize("metric", ["euclid", "cosine"])
def test_gradients_are_those_of_the_reference(metric: str) -> None:
    latents, codebook = torch.randn(60, 5), torch.randn(9, 5)
    gradients = []
    for step in (vq_step, reference.vq_step):
        leaves = latents.clone().requires_grad_(), codebook.clone().requires_grad_()
        sum(losses(step, *leaves, metric)).backward()  # type: ignore[union-attr]
        gradients.append([leaf.grad for leaf in leaves])
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("step", [vq_step, reference.vq_step], ids=["op", "reference"])
def test_gradients_of_op_and_reference_pass_gradcheck(step: object) -> None:
    # error moves latents alone and codes move the codebook alone, so each is checked for its own
    latents, codebook = torch.randn(6, 3).double(), torch.randn(4, 3).double()
    of_error = latents.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: step(x, codebook, "euclid")[2], of_error)  # type: ignore[operator]
    of_codes = codebook.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: step(latents, x, "euclid")[0], of_codes)  # type: ignore[operator]


def test_only_what_needs_a_gradient_gets_one() -> None:
    latents, codebook = torch.randn(20, 3), torch.randn(5, 3)
    _, indices, error, counts, sums = vq_step(latents.requires_grad_(), codebook)
    assert error.requires_grad and not any(x.requires_grad for x in (indices, counts, sums))
    error.backward()
    torch.testing.assert_close(latents.grad, 2 * (latents - codebook[indices]).detach())
    codes, *_, error, _, _ = vq_step(latents.detach(), codebook.requires_grad_())
    codes.sum().backward()
    assert codebook.grad is not None


def test_a_step_has_the_same_bits_at_every_run() -> None:
    latents, codebook = torch.randn(3000, 6), torch.randn(2000, 6)
    first, second = vq_step(latents, codebook), vq_step(latents, codebook)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_bad_values_and_arguments_are_refused() -> None:
    latents, codebook = torch.randn(4, 2), torch.randn(3, 2)
    with pytest.raises(ValueError, match="metric is 'dot'"):
        vq_step(latents, codebook, "dot")
    with pytest.raises(ValueError, match="of one D"):
        vq_step(latents, codebook[:, :1])
    latents[1, 1] = torch.nan
    with pytest.raises(ValueError, match=r"^latents contain NaN or Inf; .+"):
        vq_step(latents, codebook)


def test_the_op_keeps_the_contract_of_custom_ops() -> None:
    latents, codebook = torch.randn(20, 3, requires_grad=True), torch.randn(9, 3, requires_grad=True)
    for given, statistics in ((None, True), (None, False), (torch.arange(20) % 9, True)):
        torch.library.opcheck(
            torch.ops.vistok_kernels.vq_step, (latents, codebook, "euclid", given, statistics)
        )


def test_a_compiled_step_equals_the_eager_one() -> None:
    latents, codebook = torch.randn(70, 6), torch.randn(33, 6)
    compiled = torch.compile(lambda x, y: vq_step(x * 2, y), fullgraph=True, backend="aot_eager")
    for got, expected in zip(compiled(latents, codebook), vq_step(latents * 2, codebook), strict=True):
        assert torch.equal(got, expected)


def test_threads_find_what_one_thread_finds() -> None:
    latents, codebook = torch.randn(4000, 4), torch.randn(1500, 4)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
                found.append(nearest_code(latents, codebook))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_given_indices_are_followed_without_a_search(dtype: torch.dtype) -> None:
    latents, codebook = torch.randn(50, 3, dtype=dtype), torch.randn(7, 3, dtype=dtype)
    indices = torch.randint(0, 7, (50,))
    leaves = latents.clone().requires_grad_(), codebook.clone().requires_grad_()
    codes, same, error, counts, sums = vq_step(*leaves, indices=indices)
    assert same is indices and torch.equal(codes, codebook[indices])
    torch.testing.assert_close(error, (latents - codebook[indices]).square().sum())
    expected = reference.code_sums(latents, indices, 7)
    assert torch.equal(counts, expected[0])
    torch.testing.assert_close(sums.double(), expected[1], rtol=1e-6, atol=1e-6)
    (error + codes.sum()).backward()
    torch.testing.assert_close(leaves[0].grad, 2 * (latents - codebook[indices]))
    torch.testing.assert_close(leaves[1].grad, counts[:, None].to(dtype).expand(7, 3))


def test_statistics_can_be_left_out() -> None:
    latents, codebook = torch.randn(50, 3), torch.randn(7, 3)
    whole, lean = vq_step(latents, codebook), vq_step(latents, codebook, statistics=False)
    assert all(torch.equal(a, b) for a, b in zip(whole[:3], lean[:3], strict=True))
    assert lean[3].shape == (0,) and lean[4].shape == (0, 3)


def test_given_indices_of_another_length_or_range_are_refused() -> None:
    latents, codebook = torch.randn(4, 2), torch.randn(3, 2)
    with pytest.raises(ValueError, match=r"they must be int64 of shape \(4,\)"):
        vq_step(latents, codebook, indices=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"must lie in \[0, 3\)"):
        vq_step(latents, codebook, indices=torch.tensor([0, 1, 2, 3]))
    with pytest.raises(ValueError, match=r"indices are torch\.int32"):
        vq_step(latents, codebook, indices=torch.zeros(4, dtype=torch.int32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_default_dtype_changes_nothing(dtype: torch.dtype) -> None:
    latents, codebook = torch.randn(300, 64), torch.randn(400, 64)
    expected = nearest_code(latents, codebook)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        assert torch.equal(nearest_code(latents, codebook), expected)
    finally:
        torch.set_default_dtype(before)


def test_bad_values_are_refused_where_threads_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from vistok_kernels.vq import blocked

    monkeypatch.setattr(blocked, "_WORTH_THREADS", 1)
    latents, codebook = torch.randn(40, 2), torch.randn(3, 2)
    threads = torch.get_num_threads()
    latents[1, 1] = torch.nan
    with pytest.raises(ValueError, match=r"^latents contain NaN or Inf; .+"):
        nearest_code(latents, codebook)
    with pytest.raises(ValueError, match=r"^codebook values contain NaN or Inf; .+"):
        nearest_code(latents.nan_to_num(), codebook * torch.inf)
    assert torch.get_num_threads() == threads
