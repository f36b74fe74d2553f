"""The multi-scale search on the CPU against the float64 reference."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from vistok_kernels import multi_scale_codes
from vistok_kernels.multi_scale import reference
from vistok_kernels.multi_scale.resampling import Grid, grow, grow_backward, shrink

SQUARE = [(1, 1), (2, 2), (3, 3), (5, 5), (8, 8)]
ODD = [(1, 2), (3, 2), (4, 5), (7, 9), (7, 9)]


def draw(grid: Grid, num_codes: int, dim: int, num_convolutions: int, batch: int = 2) -> tuple[Tensor, ...]:
    """Latents in channels-last memory, codes, and convolutions that keep magnitudes."""
    latents = torch.randn(batch, dim, *grid).to(memory_format=torch.channels_last).movedim(1, -1)
    weight = torch.randn(num_convolutions, dim, dim, 3, 3) / (3 * dim**0.5)
    return latents, torch.randn(num_codes, dim) / 2, weight, torch.randn(num_convolutions, dim) / 10


def spread(num_scales: int, num_convolutions: int) -> list[int]:
    return [scale * num_convolutions // num_scales for scale in range(num_scales)] if num_convolutions else []


@pytest.mark.parametrize("metric", ["euclid", "cosine"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    ("grids", "num_codes", "dim", "num_convolutions"),
    [(SQUARE, 64, 4, 4), (ODD, 1200, 8, 0), (SQUARE[:4], 70, 32, 1), ([(1, 1)], 1, 1, 0), (ODD, 90, 18, 3)],
    ids=str,
)
def test_every_scale_is_the_references(
    grids: Sequence[Grid], num_codes: int, dim: int, num_convolutions: int, dtype: torch.dtype, metric: str
) -> None:
    latents, codebook, weight, bias = draw(grids[-1], num_codes, dim, num_convolutions)
    given = (latents.to(dtype), codebook, grids, weight, bias, spread(len(grids), num_convolutions), 0.4)
    found = multi_scale_codes(*given, metric)
    expected = reference.multi_scale_codes(*given, metric)
    assert torch.equal(found[0], expected[0]) and found[0].dtype == torch.int64
    assert {part.dtype for part in found[1:]} == {torch.promote_types(dtype, torch.float32)}
    for part, right in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(part.double(), right, rtol=1e-5, atol=1e-5)


def test_a_large_codebook_and_many_positions_are_searched_alike() -> None:
    grids = [(side, side) for side in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)]
    latents, codebook, weight, bias = draw((16, 16), 4096, 32, 4, batch=1)
    given = (latents, codebook, grids, weight, bias, spread(10, 4))
    found, expected = multi_scale_codes(*given), reference.multi_scale_codes(*given)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1].double(), expected[1], rtol=1e-5, atol=1e-5)


def test_no_images_give_no_indices() -> None:
    latents, codebook, weight, bias = draw((4, 4), 9, 3, 2, batch=0)
    found = multi_scale_codes(latents, codebook, [(2, 2), (4, 4)], weight, bias, [0, 1])
    assert [tuple(part.shape) for part in found] == [(0, 20), (0, 4, 4, 3), (0, 20, 3), (2,), (2,)]
    assert not found[3].any()


def test_ties_take_the_lowest_index_at_every_scale() -> None:
    latents, codebook, _, _ = draw((8, 8), 50, 4, 0)
    assert int(multi_scale_codes(latents, codebook.repeat(30, 1), SQUARE)[0].max()) < 50


def test_latents_far_from_the_origin_find_their_codes() -> None:
    latents, codebook, _, _ = draw((3, 3), 40, 6, 0)
    given = (latents + 1e4, codebook + 1e4, [(3, 3)])
    assert torch.equal(multi_scale_codes(*given)[0], reference.multi_scale_codes(*given)[0])


def test_inputs_stay_as_they_were() -> None:
    given = draw((4, 4), 9, 3, 2)
    before = [part.clone() for part in given]
    latents, codebook, weight, bias = given
    multi_scale_codes(latents, codebook, [(2, 2), (4, 4)], weight, bias, [0, 1])
    assert all(torch.equal(*pair) for pair in zip(given, before, strict=True))


@pytest.mark.parametrize("grid", [(1, 1), (2, 5), (6, 7)])
def test_resampling_is_that_of_pytorch_and_so_is_its_gradient(grid: Grid) -> None:
    image, small = torch.randn(2, 6, 7, 3).double(), torch.randn(2, *grid, 3).double().requires_grad_()
    expected = torch.nn.functional.interpolate(image.movedim(-1, 1), size=grid, mode="area")
    torch.testing.assert_close(shrink(image, grid), expected.movedim(1, -1))
    grown = torch.nn.functional.interpolate(small.movedim(-1, 1), size=(6, 7), mode="bicubic").movedim(1, -1)
    torch.testing.assert_close(grow(small.detach(), (6, 7)), grown)
    (gradient,) = torch.autograd.grad(grown, small, image)
    torch.testing.assert_close(grow_backward(image, grid), gradient)


def objective(results: Sequence[Tensor]) -> Tensor:
    """Weighs all differentiable results, each scale differently."""
    weights = torch.linspace(0.5, 2.0, len(results[3])).to(results[3])
    part = results[1] * torch.linspace(-1, 1, results[1].numel()).view(results[1].shape).to(results[1])
    return part.sum() + (weights * results[3]).sum() + (weights.square() * results[4]).sum()


Call = Callable[..., tuple[Tensor, ...]]


@pytest.mark.parametrize("call", [multi_scale_codes, reference.multi_scale_codes], ids=["op", "reference"])
@pytest.mark.parametrize("metric", ["euclid", "cosine"])
def test_gradients_pass_gradcheck(call: Call, metric: str) -> None:
    latents, codebook, weight, bias = (part.double() for part in draw((3, 4), 5, 2, 2))
    inputs = [part.requires_grad_() for part in (codebook, weight, bias)]

    def learned(*parts: Tensor) -> tuple[Tensor, Tensor]:
        found = call(latents, parts[0], [(1, 1), (2, 2), (3, 4)], *parts[1:], [0, 1, 1], 0.3, metric)
        return found[1], found[4]

    def of_latents(moved: Tensor) -> Tensor:
        return call(moved, codebook.detach(), [(1, 1), (3, 4)], None, None, (), 0.5, metric)[3]

    # choices jump where a code becomes the nearest one: without images' sums there is nothing else that bends
    assert torch.autograd.gradcheck(learned, inputs)
    assert torch.autograd.gradcheck(of_latents, latents.requires_grad_())


@pytest.mark.parametrize("num_convolutions", [0, 1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_the_references(num_convolutions: int, dtype: torch.dtype) -> None:
    given = [part.to(dtype) for part in draw((7, 9), 30, 5, num_convolutions)]
    gradients = []
    for call in (multi_scale_codes, reference.multi_scale_codes):
        leaves = [part.clone().requires_grad_() for part in given]
        results = call(leaves[0], leaves[1], ODD, *leaves[2:], spread(5, num_convolutions), 0.5, "cosine")
        objective(results).backward()
        gradients.append([leaf.grad for leaf in leaves[: 4 if num_convolutions else 2]])
    for found, expected in zip(*gradients, strict=True):
        assert found is not None and expected is not None and found.dtype == dtype
        tolerance = 1e-4 if dtype == torch.float32 else 0.02
        scale = float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * scale)


def test_the_commitment_moves_latents_alone_and_the_codebook_errors_all_else() -> None:
    latents, codebook, weight, bias = (part.requires_grad_() for part in draw((4, 4), 9, 3, 1))
    learned = (codebook, weight, bias)
    indices, quantized, compared, commitment, errors = multi_scale_codes(
        latents, codebook, [(2, 2), (4, 4)], weight, bias, [0, 0]
    )
    assert torch.equal(commitment, errors)
    assert not indices.requires_grad and not compared.requires_grad
    commitment.sum().backward(retain_graph=True)
    assert latents.grad is not None
    assert all(part.grad is None for part in learned)
    latents.grad = None
    (errors.sum() + quantized.sum()).backward()
    assert latents.grad is None
    assert all(part.grad is not None and part.grad.any() for part in learned)


def test_arguments_that_do_not_fit_are_refused() -> None:
    latents, codebook, weight, bias = draw((4, 4), 9, 3, 2)
    grids, bad = [(2, 2), (4, 4)], latents.clone()
    bad[1, 2, 3, 0] = torch.nan
    for given, reason in [
        ((latents[0], codebook, grids), r"\(B, h, w, D\)"),
        ((latents, codebook[:, :2], grids), "of one D"),
        ((latents, codebook[:0], grids), "at least one code"),
        ((latents.int(), codebook, grids), "floating-point"),
        ((latents, codebook.to("meta"), grids), "move one"),
        ((latents, codebook, []), "last grid"),
        ((latents, codebook, grids[:1]), "last grid"),
        ((latents, codebook, [(5, 1), (4, 4)]), "grids must lie"),
        ((latents, codebook, grids, weight[:, :2], bias, [0, 0]), "weight and bias"),
        ((latents, codebook, grids, weight, bias, [0]), "assigned must name"),
        ((latents, codebook, grids, weight, bias, [0, 2]), "assigned must name"),
        ((latents, codebook, grids, None, None, (), 0.5, "dot"), "metric"),
        ((bad, codebook, grids), "latents contain NaN or Inf"),
        ((latents, codebook * torch.inf, grids), "codebook values contain NaN or Inf"),
        ((latents, codebook, grids, weight * torch.nan, bias, [0, 1]), "sums of codes contain NaN or Inf"),
    ]:
        with pytest.raises(ValueError, match=reason):
            multi_scale_codes(*given)  # type: ignore[arg-type]


def test_the_op_keeps_the_contract_of_custom_ops() -> None:
    # its check under AOTDispatcher adds float outputs to integer ones in place; the next test has that part
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    latents, codebook, weight, bias = (part.requires_grad_() for part in draw((4, 4), 9, 3, 2))
    for convolutions, assigned in (((weight, bias), [0, 1]), ((torch.empty(0), torch.empty(0)), [])):
        arguments: tuple[Any, ...] = (latents, codebook, *convolutions, assigned, [2, 2, 4, 4], "euclid")
        torch.library.opcheck(torch.ops.vistok_kernels.multi_scale_codes, arguments, test_utils=checks)


def test_compiled_results_and_gradients_equal_eager_ones() -> None:
    given = draw((8, 8), 40, 4, 4)

    def search(latents: Tensor, codebook: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        return multi_scale_codes(latents * 2, codebook, SQUARE, weight, bias, spread(5, 4), 0.5, "cosine")

    outcomes = []
    for call in (torch.compile(search, fullgraph=True, backend="aot_eager"), search):
        leaves = [part.clone().requires_grad_() for part in given]
        results = call(*leaves)
        objective(results).backward()
        outcomes.append([*results, *(leaf.grad for leaf in leaves)])
    for found, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
