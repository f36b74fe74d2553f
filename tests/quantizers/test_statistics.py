"""What quantizers learn from statistics is the same at 1, 2 and 4 processes, for the same global batch."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import start_processes

import vistok.quantizers as quantizers
from tests.ranks import group
from vistok.quantizers import VQ, Quantizer, Residual
from vistok.quantizers.statistics import from_first_process, rows_of_all_processes, sum_over_processes

STEPS, ROWS, GRID = 5, 8, (2, 3)

CASES: dict[str, Callable[[], Quantizer]] = {
    "VQ by gradient": lambda: VQ(24, 3, revive_after=2),
    "VQ by EMA": lambda: VQ(24, 3, update="ema", revive_after=2, metric="cosine"),
    "Residual by EMA": lambda: Residual(VQ(12, 3, update="ema", revive_after=2), 3),
    "Residual by gradient": lambda: Residual(VQ(12, 3, revive_after=2), 2),
    "Residual of one codebook": lambda: Residual(VQ(12, 3, update="ema", revive_after=2), 2, shared=True),
}
# learned by nothing but gradients, or by another library
_OTHERS = ("Continuous", "External", "Gaussian", "Identity", "Quantizer", "VQ", "Residual")
for _name in quantizers.__all__:
    _class = getattr(quantizers, _name)
    if isinstance(_class, type) and issubclass(_class, Quantizer) and _name not in _OTHERS:
        CASES[_name] = _class.tiny


def _train(rank: int, world_size: int, folder: str) -> None:
    """Trains every case by its statistics alone; modules are built before the process group exists, as in Lightning."""
    torch.set_num_threads(1)
    modules = {}
    for name, build in CASES.items():
        torch.manual_seed(0)
        modules[name] = build().train()
    with group(rank, world_size, folder):
        found = {name: _states(quantizer, rank, world_size) for name, quantizer in modules.items()}
        if rank == 0:
            torch.save(found, Path(folder) / f"{world_size}.pt")


def _states(quantizer: Quantizer, rank: int, world_size: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    losses: dict[str, torch.Tensor] = {}
    for step in range(STEPS):
        batch = torch.randn(ROWS, *GRID, quantizer.dim_in, generator=generator) + 1
        share = batch.chunk(world_size)[rank]
        if step == 0:
            quantizer.prepare(share)
        torch.manual_seed(step)
        output = quantizer(share)
        for name, value in output.losses.items():
            # a term of the whole batch is the same everywhere, a term of each latent is averaged over the shares
            losses[f"loss/{name}/{step}"] = sum_over_processes(value.detach()) / world_size
        quantizer.update()
    return {name: value.clone() for name, value in quantizer.state_dict().items()} | losses


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """State by number of processes and case."""
    folder = tmp_path_factory.mktemp("statistics")
    # processes are forked from one that has imported everything once, and has done nothing else
    multiprocessing.set_forkserver_preload(["vistok.quantizers"])
    for world_size in (1, 2, 4):
        start_processes(_train, (world_size, str(folder)), nprocs=world_size, start_method="forkserver")
    return {size: torch.load(folder / f"{size}.pt", weights_only=True) for size in (1, 2, 4)}


@pytest.mark.parametrize("name", CASES)
def test_init_statistics_revival_and_losses_are_equal_on_1_2_and_4_processes(states, name):
    for world_size in (2, 4):
        for key, value in states[1][name].items():
            torch.testing.assert_close(states[world_size][name][key], value, atol=1e-6, rtol=1e-6, msg=lambda m, k=key: f"{k}: {m}")  # fmt: skip


def test_ema_counts_and_sums_are_those_of_the_whole_batch(states):
    state = states[4]["VQ by EMA"]
    # decay 0.99 of the starting 1, and a hundredth of every latent of every process since; revival resets to 1
    total = float(state["ema_counts"].sum())
    assert total > 24 * 0.99**STEPS
    assert state["ema_sums"].norm(dim=1).le(state["ema_counts"] * (1 + 1e-5)).all()


def test_without_a_process_group_everything_stays_in_this_process():
    rows = torch.randn(7, 3)
    assert sum_over_processes(rows) is rows and from_first_process(rows) is rows
    torch.testing.assert_close(rows_of_all_processes(rows).sum(0), rows.sum(0))


def test_the_order_of_gathered_rows_does_not_depend_on_who_held_them():
    rows = torch.randn(40, 3)
    assert torch.equal(rows_of_all_processes(rows), rows_of_all_processes(rows[torch.randperm(40)]))
