"""Every op on a GPU against itself on the CPU, values and gradients; skipped where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import vistok_kernels as ops
from vistok_kernels.vq import reference

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

DIMS = (4, 8, 12, 16, 18, 32, 64, 256, 768)
LEVELS = [8, 5, 5, 5]


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))).to(dtype)


# name -> (call, inputs that are differentiable, other inputs)
CALLS: dict[str, tuple[Callable[..., Any], Sequence[Tensor], Sequence[Any]]] = {
    "code_sums": (ops.code_sums, [], [draw(3000, 18), torch.arange(3000) % 77, 80]),
    "fsq": (ops.fsq, [draw(700, 4)], [LEVELS]),
    "fsq_decode": (ops.fsq_decode, [], [torch.arange(1000), LEVELS]),
    "vq_step": (ops.vq_step, [draw(500, 8), draw(300, 8)], []),
    "vq_step, cosine": (ops.vq_step, [draw(500, 8), draw(300, 8)], ["cosine"]),
    "residual_codes": (ops.residual_codes, [draw(500, 8), draw(3, 64, 8)], []),
    "multi_scale_codes": (
        ops.multi_scale_codes,
        [draw(3, 7, 9, 18), draw(300, 18)],
        [[(1, 2), (3, 2), (4, 5), (7, 9)]],
    ),
    "multi_scale_codes, smoothed": (
        lambda latents, codebook, weight, bias: ops.multi_scale_codes(
            latents,
            codebook,
            [(1, 1), (2, 2), (5, 5), (8, 8)],
            weight / 20,
            bias,
            [0, 0, 1, 1],
            0.5,
            "cosine",
        ),
        [draw(200, 8, 8, 8), draw(300, 8), draw(2, 8, 8, 3, 3), draw(2, 8)],
        [],
    ),
    "product_codes": (ops.product_codes, [], [draw(500, 24), draw(3, 64, 8)]),
    "bit_indices": (ops.bit_indices, [], [draw(500, 18)]),
    "bits_from_indices": (ops.bits_from_indices, [], [torch.arange(5000), 18]),
    "pack_bits": (ops.pack_bits, [draw(500, 18)], [0.7]),
    "bit_entropy": (ops.bit_entropy, [draw(500, 18)], [0.7]),
    "bit_probabilities": (ops.bit_probabilities, [draw(500, 12)], [0.7]),
    "code_entropy": (ops.code_entropy, [draw(500, 12)], [0.7]),
    "distribution_entropy": (ops.distribution_entropy, [draw(64).softmax(0)], []),
    "factorised_entropy": (ops.factorised_entropy, [draw(500, 18)], [0.7]),
    "grouped_entropy": (ops.grouped_entropy, [draw(500, 18)], [0.7, 9]),
}
for _metric in ("dot", "euclid", "cosine"):
    for _op in ("codebook_attention", "codebook_entropy", "codebook_probabilities", "index_softmax"):
        CALLS[f"{_op}, {_metric}"] = (getattr(ops, _op), [draw(300, 16), draw(700, 16)], [0.5, _metric])


def run(
    call: Callable[..., Any], leaves: Sequence[Tensor], others: Sequence[Any], device: str
) -> list[Tensor]:
    """Outputs and gradients, on the CPU."""
    given = [leaf.detach().to(device).requires_grad_() for leaf in leaves]
    rest = [other.to(device) if isinstance(other, Tensor) else other for other in others]
    output = call(*given, *rest)
    outputs = [output] if isinstance(output, Tensor) else list(output)
    moving = [value for value in outputs if value.requires_grad]
    if moving:
        torch.autograd.backward([value.square().sum() for value in moving])
    gradients = [leaf.grad for leaf in given if leaf.grad is not None]
    return [value.detach().cpu() for value in [*outputs, *gradients]]


def test_every_exported_op_is_covered() -> None:
    covered = {name.partition(",")[0] for name in CALLS} | {"nearest_code"}
    assert covered >= set(ops.__all__)


@pytest.mark.parametrize("name", CALLS)
def test_a_gpu_gives_what_the_cpu_gives(name: str) -> None:
    call, leaves, others = CALLS[name]
    expected = run(call, leaves, others, "cpu")
    found = run(call, leaves, others, "cuda")
    assert len(found) == len(expected)
    for value, wanted in zip(found, expected, strict=True):
        if wanted.is_floating_point():
            torch.testing.assert_close(
                value, wanted, rtol=1e-4, atol=1e-5 * max(1.0, float(wanted.abs().max()))
            )
        else:
            assert torch.equal(value, wanted)


@pytest.mark.parametrize("metric", ["euclid", "cosine"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dim", DIMS)
def test_the_nearest_code_is_that_of_float64(dim: int, dtype: torch.dtype, metric: str) -> None:
    latents, codebook = draw(300, dim, dtype=dtype).cuda(), draw(4099, dim, dtype=dtype).cuda() + 3
    indices = ops.nearest_code(latents, codebook, metric)
    distances = reference.distances(latents, codebook, metric)
    middle = codebook.double().mean(dim=0)
    lengths = (latents.double() - middle).square().sum(1) + (
        codebook.double()[indices] - middle
    ).square().sum(1)
    excess = distances.gather(1, indices[:, None])[:, 0] - distances.amin(dim=1)
    assert bool((excess <= 1e-5 * (2 if metric == "cosine" else lengths)).all())


def test_ties_take_the_lowest_index_on_a_gpu() -> None:
    codebook = draw(300, 3).repeat(60, 1).cuda()
    assert int(ops.nearest_code(draw(50, 3).cuda(), codebook).max()) < 300


def test_bad_latents_get_no_plausible_index_and_nothing_waits() -> None:
    latents, codebook = draw(40, 8).cuda(), draw(64, 8).cuda()
    latents[7, 2], latents[9, 0] = float("nan"), float("inf")
    torch.cuda.set_sync_debug_mode("error")
    try:
        indices = ops.nearest_code(latents, codebook)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    bad = (indices < 0).nonzero().flatten().tolist()
    assert bad == [7, 9]


def test_no_tensor_of_latents_times_codes_is_allocated() -> None:
    latents, codebook = draw(8192, 8).cuda(), draw(65536, 8).cuda()
    ops.nearest_code(latents, codebook)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ops.nearest_code(latents, codebook)
    assert torch.cuda.max_memory_allocated() - before < 64 << 20
