import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vistok.evaluation import CodebookUsage


def counted(indices: torch.Tensor, codebook_size: int) -> CodebookUsage:
    usage = CodebookUsage(codebook_size, indices.shape[-1])
    usage.update(indices)
    return usage


def test_uniform_indices_use_everything_at_full_perplexity():
    usage = counted(torch.arange(64).view(4, 16, 1), 64)
    assert usage.usage == 1.0
    assert usage.perplexity == pytest.approx(64)
    assert (usage.num_dead, usage.num_tokens) == (0, 64)


def test_values_have_their_closed_form():
    usage = counted(torch.tensor([0, 0, 0, 3]).view(1, 4, 1), 4)
    assert (usage.usage, usage.num_dead) == (0.5, 2)
    assert usage.perplexity == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))


def test_groups_are_counted_apart_and_averaged():
    usage = counted(torch.tensor([[[0, 0], [1, 0]]]), 4)
    assert usage.counts.tolist() == [[1, 1, 0, 0], [2, 0, 0, 0]]
    assert usage.usage == (0.5 + 0.25) / 2
    assert usage.perplexity == pytest.approx((2 + 1) / 2)


def test_a_codebook_larger_than_65536_can_be_fully_used():
    size = 1 << 17
    usage = CodebookUsage(size)
    for part in torch.randperm(size).split(10_000):
        usage.update(part.view(1, -1, 1))
    assert usage.usage == 1.0


def test_counts_stay_exact_beyond_what_float32_can_count():
    usage = CodebookUsage(2)
    usage.counts[0, 0] = 2**24
    usage.update(torch.zeros(1, 1, 1, dtype=torch.int64))
    assert usage.counts[0, 0].item() == 2**24 + 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(0, 40))
def test_parts_merge_into_the_counts_of_the_whole(indices, cut):
    whole = torch.tensor(indices).view(-1, 1)
    merged = counted(whole[:cut], 7)
    merged.merge(counted(whole[cut:], 7))
    assert merged.counts.equal(counted(whole, 7).counts)
    assert 1 <= merged.perplexity <= 7 + 1e-9


def test_two_processes_reduce_to_the_counts_of_the_whole(tmp_path):
    script = Path(__file__).with_name("count_on_two_ranks.py")
    ranks = [subprocess.Popen([sys.executable, str(script), str(rank), str(tmp_path)]) for rank in range(2)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    expected = counted(torch.arange(8).view(1, 4, 2), 8).counts
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True).equal(expected)


def test_without_a_process_group_reduce_changes_nothing():
    usage = counted(torch.zeros(1, 3, 1, dtype=torch.int64), 4)
    usage.reduce()
    assert usage.counts.tolist() == [[3, 0, 0, 0]]


def test_nothing_counted_is_no_usage():
    usage = CodebookUsage(4)
    usage.update(torch.zeros(0, 3, 1, dtype=torch.int64))
    assert (usage.usage, usage.perplexity, usage.num_dead) == (0.0, 0.0, 4)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (torch.tensor([[[4]]]), r"index 4 is outside \[0, 4\)"),
        (torch.tensor([[[-1]]]), "index -1"),
        (torch.tensor([[[0, 1]]]), "2 groups, not 1"),
    ],
)
def test_impossible_indices_are_refused_and_not_counted(indices, message):
    usage = CodebookUsage(4)
    with pytest.raises(ValueError, match=message):
        usage.update(indices)
    assert usage.num_tokens == 0


def test_codebooks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="cannot be counted"):
        CodebookUsage(2**40)
    with pytest.raises(ValueError, match="cannot be added"):
        CodebookUsage(4).merge(CodebookUsage(8))
