"""The search with bfloat16 products finds what the float32 search finds; here also on processors that would not choose it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.test_vq import excess
from vistok_kernels import nearest_code
from vistok_kernels.vq import blocked, halved
from vistok_kernels.vq.prepared import frame


@pytest.fixture(autouse=True)
def chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halved, "_multiplies_halves", lambda: True)


def search(latents: Tensor, codebook: Tensor, metric: str = "euclid") -> Tensor | None:
    """One block of the search with bfloat16 products alone."""
    where = frame(codebook, metric)
    table = blocked._table(codebook, where)
    assert halved.worth_halving(table)
    return halved.HalvedSearch(table, halved.HalvedTable(table), where, len(latents))(latents)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    num_codes=st.sampled_from([256, 300, 1000, 2500]),
    dim=st.sampled_from([64, 65, 200]),
    offset=st.sampled_from([0.0, 1.0, -37.0, 1e4]),
    scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e15]),
    spread=st.sampled_from([0.0, 2.0]),
    metric=st.sampled_from(["euclid", "cosine"]),
)
def test_a_wrong_index_is_never_further_than_float32_allows(
    seed: int, num_codes: int, dim: int, offset: float, scale: float, spread: float, metric: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scale = 1.0 if metric == "cosine" else scale
    latents = (torch.randn(300, dim, generator=generator) + offset) * scale
    lengths = torch.exp(spread * torch.randn(num_codes, 1, generator=generator))
    # codes of very different lengths are measured from the origin, as a codebook far from it is from its middle
    codebook = (
        torch.randn(num_codes, dim, generator=generator) * lengths + (0 if spread else offset)
    ) * scale
    indices = nearest_code(latents, codebook, metric)
    if spread and metric == "euclid":
        distances = torch.cdist(latents.double() / scale, codebook.double() / scale).square()
        further = distances.gather(1, indices[:, None])[:, 0] - distances.amin(dim=1)
        allowed = (latents.double() / scale).square().sum(1) + (
            codebook.double()[indices] / scale
        ).square().sum(1)
        assert bool((further <= 1e-5 * allowed).all())
    else:
        assert excess(latents, codebook, indices, metric) < 1


@pytest.mark.parametrize("shape", [(256, 1024, 256), (300, 4096, 64), (1000, 777, 100)], ids=str)
def test_random_codes_are_decided_by_it_and_rightly(shape: tuple[int, int, int]) -> None:
    num_latents, num_codes, dim = shape
    latents, codebook = torch.randn(num_latents, dim), torch.randn(num_codes, dim)
    indices = search(latents, codebook)
    assert indices is not None
    assert torch.equal(indices, torch.cdist(latents.double(), codebook.double()).argmin(dim=1))


def test_codes_nearer_to_each_other_than_bfloat16_can_tell_are_left_to_float32() -> None:
    codebook = torch.ones(1024, 64) + torch.randn(1024, 64) * 0.02
    codebook[0] = -1  # keeps the middle of the codebook away from the cluster
    chosen = torch.randint(1, 1024, (512,))
    assert search(codebook[chosen], codebook) is None
    assert torch.equal(nearest_code(codebook[chosen], codebook), chosen)


def test_of_equal_codes_the_first_is_taken() -> None:
    codebook = torch.randn(150, 64).repeat(4, 1)
    codebook = codebook[torch.randperm(len(codebook), generator=torch.Generator().manual_seed(1))]
    latents = torch.randn(400, 64)
    nearest = nearest_code(latents, codebook)
    same = (codebook[nearest].unsqueeze(1) == codebook).all(dim=2)
    assert torch.equal(nearest, same.float().argmax(dim=1))


def test_latents_that_are_codes_find_themselves() -> None:
    codebook = torch.randn(512, 96)
    assert torch.equal(nearest_code(codebook, codebook), torch.arange(512))
    zeros = torch.zeros(300, 96)
    assert torch.equal(nearest_code(zeros, torch.zeros(512, 96)), torch.zeros(300, dtype=torch.int64))


def test_small_work_and_narrow_codes_stay_with_float32() -> None:
    for num_codes, dim in ((1024, 16), (100, 64), (2**15 + 64, 64)):
        assert not halved.worth_halving(torch.zeros(num_codes, dim + 1))


@pytest.mark.parametrize("far", [1e17, 1e18, 1e20, 3e30])
@pytest.mark.parametrize("metric", ["euclid", "cosine"])
def test_latents_however_far_find_codes_that_rounding_keeps(far: float, metric: str) -> None:
    signs = torch.randint(0, 2, (512, 512)).float() * 2 - 1
    if metric == "cosine":
        far = min(far, 7e17)
    for codebook in (signs, torch.zeros(512, 512)):
        indices = nearest_code(signs[:300] * far, codebook, metric)
        assert int(indices.min()) >= 0 and int(indices.max()) < 512
    assert torch.equal(nearest_code(signs * far, signs, metric), torch.arange(512))


@pytest.mark.parametrize(
    "codebook", [torch.zeros(256, 64), torch.ones(1024, 64), torch.randn(1, 64).expand(300, 64)]
)
def test_a_collapsed_codebook_is_left_to_float32_before_its_codes_are_gathered(codebook: Tensor) -> None:
    latents = torch.randn(300, 64)
    assert search(latents, codebook) is None
    assert not nearest_code(latents, codebook).any()
