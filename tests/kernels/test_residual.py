"""Residual and product searches on the CPU against the float64 reference."""

import pytest
import torch
from torch import Tensor

from vistok_kernels import product_codes, residual_codes
from vistok_kernels.residual import reference


def stages(num_stages: int, num_codes: int, dim: int) -> Tensor:
    """Codebooks that get finer stage by stage."""
    return torch.stack([torch.randn(num_codes, dim) / 2**stage for stage in range(num_stages)])


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (0, 2, 3, 2), (300, 4, 64, 8), (20, 3, 1200, 40)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_residual_stages_are_the_references(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    num_latents, num_stages, num_codes, dim = shape
    latents, codebooks = torch.randn(dim, num_latents).T.to(dtype), stages(num_stages, num_codes, dim)
    indices, quantized = residual_codes(latents, codebooks)
    expected_indices, expected = reference.residual_codes(latents, codebooks)
    assert torch.equal(indices, expected_indices)
    assert quantized.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(quantized.double(), expected, rtol=1e-5, atol=1e-5)


def test_ties_take_the_lowest_index_in_every_stage_and_group() -> None:
    codebooks = stages(3, 50, 4).repeat(1, 30, 1)
    assert int(residual_codes(torch.randn(30, 4), codebooks)[0].max()) < 50
    assert int(product_codes(torch.randn(30, 12), codebooks).max()) < 50


@pytest.mark.parametrize("call", [residual_codes, reference.residual_codes], ids=["op", "reference"])
def test_the_gradient_of_the_codebooks_passes_gradcheck(call: object) -> None:
    latents, codebooks = torch.randn(8, 3).double(), stages(2, 4, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: call(latents, x)[1], codebooks)  # type: ignore[operator]


def test_every_stage_gets_the_references_gradient_and_latents_none() -> None:
    latents, codebooks = torch.randn(50, 5, requires_grad=True), stages(3, 7, 5)
    upstream = torch.randn(50, 5)
    gradients = []
    for call in (residual_codes, reference.residual_codes):
        leaf = codebooks.clone().requires_grad_()
        call(latents, leaf)[1].backward(upstream)
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-5)
    assert latents.grad is None


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (0, 2, 3, 2), (300, 3, 64, 6), (20, 2, 1200, 40)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_product_groups_are_the_references(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    num_latents, num_groups, num_codes, dim = shape
    latents = torch.randn(num_groups * dim, num_latents).T.to(dtype)
    codebooks = stages(num_groups, num_codes, dim)
    indices = product_codes(latents, codebooks)
    assert indices.dtype == torch.int64
    assert torch.equal(indices, reference.product_codes(latents, codebooks))


def test_arguments_that_do_not_fit_are_refused() -> None:
    latents, codebooks = torch.randn(4, 6), torch.randn(2, 5, 3)
    bad = latents.clone()
    bad[0, 0] = torch.inf
    for call, reason in [
        (lambda: residual_codes(latents, codebooks), r"latents must be \(N, 3\)"),
        (lambda: product_codes(latents[:, :3], codebooks), r"latents must be \(N, 6\)"),
        (lambda: residual_codes(latents, codebooks[0]), r"it must be \(S, K, D\)"),
        (lambda: product_codes(latents, codebooks[:0]), r"it must be \(S, K, D\)"),
        (lambda: product_codes(latents.int(), codebooks), "floating-point"),
        (lambda: product_codes(latents, codebooks.to("meta")), "move one"),
        (lambda: product_codes(bad, codebooks), "latents contain NaN or Inf"),
        (lambda: residual_codes(bad[:, :3], codebooks), "latents contain NaN or Inf"),
        (lambda: residual_codes(latents[:, :3], codebooks * torch.nan), "codebook values contain NaN or Inf"),
    ]:
        with pytest.raises(ValueError, match=reason):
            call()


def test_ops_keep_the_contract_of_custom_ops() -> None:
    codebooks = torch.randn(2, 5, 3, requires_grad=True)
    # its check under AOTDispatcher adds float outputs to integer ones in place; the next test has that part
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(
        torch.ops.vistok_kernels.residual_codes, (torch.randn(9, 3), codebooks), test_utils=checks
    )
    torch.library.opcheck(torch.ops.vistok_kernels.product_codes, (torch.randn(9, 6), codebooks.detach()))


def test_compiled_results_and_gradients_equal_eager_ones() -> None:
    def search(latents: Tensor, codebooks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        indices, quantized = residual_codes(latents * 2, codebooks)
        return indices, quantized, product_codes(torch.cat([latents, quantized], dim=1), codebooks)

    latents, codebooks = torch.randn(40, 4), stages(2, 9, 4).requires_grad_()
    compiled = torch.compile(search, fullgraph=True, backend="aot_eager")(latents, codebooks)
    eager = search(latents, codebooks)
    for got, expected in zip(compiled, eager, strict=True):
        assert torch.equal(got, expected)
    gradients = [
        torch.autograd.grad(results[1].square().sum(), codebooks)[0] for results in (compiled, eager)
    ]
    assert torch.equal(*gradients)
