from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from tests.ranks import group
from vistok.global_mean import mean_over_processes

SHARES = {1: [12], 2: [5, 7], 4: [1, 2, 4, 5]}


def test_a_single_process_gets_the_very_tensor():
    value = torch.randn(3)
    assert mean_over_processes(value, 7) is value


def _loss(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    with group(rank, world_size, folder):
        rows = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).split(SHARES[world_size])[rank]
        weight = torch.ones(3, requires_grad=True)
        mean = mean_over_processes((rows * weight).sigmoid().mean(dim=0), rows.shape[0])
        loss = mean.log().sum()
        loss.backward()
        gradient = weight.grad
        if world_size > 1:
            dist.all_reduce(gradient)  # as data-parallel training averages gradients
            gradient /= world_size
        torch.save((loss.detach(), gradient), Path(folder) / f"{world_size}-{rank}.pt")


@pytest.mark.parametrize("world_size", [2, 4])
def test_unequal_shares_give_the_loss_and_gradient_of_the_whole_batch_on_every_process(tmp_path, world_size):
    _loss(0, 1, str(tmp_path))
    spawn(_loss, (world_size, str(tmp_path)), nprocs=world_size)
    expected, expected_gradient = torch.load(tmp_path / "1-0.pt")
    for rank in range(world_size):
        loss, gradient = torch.load(tmp_path / f"{world_size}-{rank}.pt")
        torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(gradient, expected_gradient, atol=1e-6, rtol=1e-6)
