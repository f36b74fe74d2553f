"""The PyTorch path of nearest_code and code_sums against the float64 reference, and the rules that both promise."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vistok_kernels import code_sums, nearest_code
from vistok_kernels.vq import reference

SHAPES = [
    (1, 1, 1),
    (0, 3, 2),
    (257, 1, 4),
    (3, 129, 1),
    (130, 257, 18),
    (65, 1000, 8),
    (40, 8193, 3),
    (33, 77, 300),
]


def excess(latents: Tensor, codebook: Tensor, indices: Tensor, metric: str = "euclid") -> float:
    """How much further than the nearest the chosen codes are, in units of the 1e-5 that is allowed; 1 is the limit."""
    latents, codebook = latents.double(), codebook.double()
    if metric == "cosine":
        latents, codebook = (torch.nn.functional.normalize(x, dim=1) for x in (latents, codebook))
        middle = torch.zeros_like(codebook[0])
    else:
        middle = codebook.mean(dim=0)
    latents, codebook = latents - middle, codebook - middle
    distances = reference.distances(latents, codebook)
    chosen = distances.gather(1, indices[:, None])[:, 0]
    lengths = latents.square().sum(dim=1) + codebook[indices].square().sum(dim=1)
    return float(((chosen - distances.amin(dim=1)) / (1e-5 * lengths).clamp(min=1e-300)).max())


@pytest.mark.parametrize("metric", ["euclid", "cosine"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_indices_are_those_of_the_reference(shape: tuple[int, int, int], metric: str) -> None:
    num_latents, num_codes, dim = shape
    latents, codebook = torch.randn(num_latents, dim), torch.randn(num_codes, dim)
    indices = nearest_code(latents, codebook, metric)
    assert indices.dtype == torch.int64 and indices.shape == (num_latents,)
    if num_latents:
        assert int(indices.min()) >= 0 and int(indices.max()) < num_codes
        assert excess(latents, codebook, indices, metric) < 1


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    num_codes=st.integers(1, 400),
    dim=st.sampled_from([1, 2, 8, 31, 256]),
    offset=st.sampled_from([0.0, 1.0, -37.0, 1e4]),
    scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e18]),
    metric=st.sampled_from(["euclid", "cosine"]),
)
def test_a_wrong_index_is_never_further_than_the_rounding_allows(
    seed: int, num_codes: int, dim: int, offset: float, scale: float, metric: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    latents = (torch.randn(50, dim, generator=generator) + offset) * (1.0 if metric == "cosine" else scale)
    codebook = (torch.randn(num_codes, dim, generator=generator) + offset) * scale
    assert excess(latents, codebook, nearest_code(latents, codebook, metric), metric) < 1


def test_latents_far_from_the_origin_find_their_codes() -> None:
    codebook = torch.randn(512, 8) + 1e4
    chosen = torch.randint(0, 512, (200,))
    assert torch.equal(nearest_code(codebook[chosen], codebook), chosen)


def test_a_fine_cluster_at_the_origin_survives_a_coarse_one_beside_it() -> None:
    codebook = torch.cat([torch.randn(64, 4) * 1e-6, torch.randn(64, 4) * 1e-6 + 1])
    assert torch.equal(nearest_code(codebook[:64], codebook), torch.arange(64))


def test_ties_take_the_lowest_index_across_tiles() -> None:
    codebook = torch.randn(300, 3).repeat(60, 1)  # 18000 codes, three tiles of the search
    indices = nearest_code(torch.randn(50, 3), codebook)
    assert int(indices.max()) < 300


@pytest.mark.parametrize("offset", [0, 1000])
def test_latents_midway_between_codes_take_the_lower_one(offset: int) -> None:
    codebook = torch.arange(9.0)[:, None].expand(9, 2) + offset
    latents = torch.arange(8.0)[:, None].expand(8, 2) + offset + 0.5
    assert torch.equal(nearest_code(latents, codebook), torch.arange(8))
    assert torch.equal(nearest_code(latents, codebook.flip(0)), 7 - torch.arange(8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_give_the_indices_of_their_own_values(dtype: torch.dtype) -> None:
    latents, codebook = torch.randn(100, 8).to(dtype), torch.randn(64, 8).to(dtype)
    assert torch.equal(nearest_code(latents, codebook), reference.nearest_code(latents, codebook))


def test_float64_latents_may_lie_where_float32_cannot_tell_them_apart() -> None:
    codebook = torch.randn(64, 4, dtype=torch.float64) + 1e12
    assert torch.equal(nearest_code(codebook, codebook), torch.arange(64))


def test_strided_latents_and_codebooks_are_read_in_place() -> None:
    latents, codebook = torch.randn(8, 100).T, torch.randn(64, 16)[:, ::2]
    before = latents.clone(), codebook.clone()
    assert torch.equal(
        nearest_code(latents, codebook), nearest_code(latents.contiguous(), codebook.contiguous())
    )
    assert torch.equal(latents, before[0]) and torch.equal(codebook, before[1])


def test_no_tensor_is_as_large_as_latents_times_codes() -> None:
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else [result]:
                self.numel = max(self.numel, tensor.numel() if isinstance(tensor, Tensor) else 0)
            return result

    from vistok_kernels.vq import blocked

    latents, codebook = torch.randn(20000, 2), torch.randn(3000, 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the mode sees its own thread alone
    try:
        with Largest() as largest:
            blocked.nearest_code(latents, codebook, "euclid")
    finally:
        torch.set_num_threads(threads)
    assert 0 < largest.numel < 20000 * 3000


def test_autocast_and_reduced_matmul_precision_do_not_reach_the_search() -> None:
    latents, codebook = torch.randn(100, 64), torch.randn(500, 64)
    expected = nearest_code(latents, codebook)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(nearest_code(latents, codebook), expected)
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_value_is_named_with_its_owner_and_a_remedy(value: float) -> None:
    good, bad = torch.randn(5, 3), torch.randn(5, 3)
    bad[2, 1] = value
    with pytest.raises(ValueError, match=r"^latents contain NaN or Inf; .+"):
        nearest_code(bad, good)
    with pytest.raises(ValueError, match=r"^codebook values contain NaN or Inf; .+"):
        nearest_code(good, bad)


def test_arguments_that_do_not_fit_are_refused() -> None:
    two, three = torch.randn(4, 2), torch.randn(4, 3)
    for call, reason in [
        (lambda: nearest_code(two, three), "of one D"),
        (lambda: nearest_code(two[None], two), "of one D"),
        (lambda: nearest_code(two, two[:0]), "at least one code"),
        (lambda: nearest_code(two, two, "manhattan"), "metric is 'manhattan'"),
        (lambda: nearest_code(two.int(), two), "floating-point"),
        (lambda: nearest_code(two, two.to("meta")), "move one"),
        (lambda: code_sums(two, torch.tensor([0, 1, 2, 4]), 4), r"must lie in \[0, 4\)"),
        (lambda: code_sums(two, torch.tensor([0, -1, 2, 3]), 4), r"must lie in \[0, 4\)"),
        (lambda: code_sums(two, torch.tensor([0]), 4), r"\(N, D\) and \(N,\)"),
        (lambda: code_sums(two, torch.zeros(4), 4), "int64 or int32"),
        (lambda: code_sums(two, torch.zeros(4, dtype=torch.int64), 0), "at least 1"),
    ]:
        with pytest.raises(ValueError, match=reason):
            call()


@pytest.mark.parametrize("shape", [(0, 3, 2), (1, 1, 1), (500, 7, 5), (64, 300, 33)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_and_counts_are_those_of_the_reference(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    num_latents, num_codes, dim = shape
    latents, indices = torch.randn(num_latents, dim).to(dtype), torch.randint(0, num_codes, (num_latents,))
    counts, sums = code_sums(latents, indices, num_codes)
    expected_counts, expected_sums = reference.code_sums(latents, indices, num_codes)
    assert sums.dtype == torch.float32 and torch.equal(counts, expected_counts)
    torch.testing.assert_close(sums.double(), expected_sums, rtol=1e-5, atol=1e-5)


def test_ops_keep_the_contract_of_custom_ops() -> None:
    latents, codebook = torch.randn(20, 3, requires_grad=True), torch.randn(9, 3)
    torch.library.opcheck(torch.ops.vistok_kernels.nearest_code, (latents.detach(), codebook, "euclid"))
    torch.library.opcheck(
        torch.ops.vistok_kernels.code_sums, (latents.detach(), torch.randint(0, 9, (20,)), 9)
    )


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_indices_equal_eager_ones(backend: str) -> None:
    def search(latents: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        indices = nearest_code(latents * 2 - 1, codebook)
        return indices, *code_sums(latents, indices, codebook.shape[0])

    latents, codebook = torch.randn(70, 6, requires_grad=True), torch.randn(33, 6)
    for compiled, eager in zip(
        torch.compile(search, fullgraph=True, backend=backend)(latents, codebook),
        search(latents, codebook),
        strict=True,
    ):
        assert torch.equal(compiled, eager)
