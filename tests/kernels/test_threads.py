"""Threads that share work block by block."""

import pytest
import torch

from vistok_kernels.threads import run_in_threads


@pytest.mark.parametrize("num_threads", [1, 3])
def test_every_block_is_done_once_and_no_gradient_is_recorded(num_threads: int) -> None:
    blocks = iter(range(50))
    done = []
    weight = torch.ones((), requires_grad=True)

    def work() -> None:
        for block in blocks:
            done.append(block)
            assert not (weight * block).requires_grad

    before = torch.get_num_threads()
    run_in_threads(work, num_threads)
    assert sorted(done) == list(range(50))
    assert torch.get_num_threads() == before


def test_operations_within_run_on_one_thread_each() -> None:
    seen: list[int] = []
    run_in_threads(lambda: seen.append(torch.get_num_threads()), 2)
    assert seen == [1, 1]


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_threads_exception_is_the_callers(num_threads: int) -> None:
    def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_in_threads(work, num_threads)
