"""One of several processes of test_contrastive: ``python -m tests.losses.contrastive_ranks RANK WORLD_SIZE FOLDER FORM``."""

import sys
from pathlib import Path

import torch
from torch import nn

from tests.losses.towers import Letters
from tests.ranks import group
from vistok.losses import Contrastive

CAPTIONS = ["a cat", "two dogs", "a bee", "fir", "an ox", "moss", "a red hen", "ice"]


def run(rank: int, world_size: int, folder: Path, form: str) -> None:
    """The loss of this process's share, and gradients averaged over processes as data-parallel training does."""
    torch.manual_seed(0)
    tower, head = Letters(6), nn.Linear(5, 6)
    loss = Contrastive(tower, form, frozen=False, scale=3.0, bias=-1.0)
    features = torch.randn(8, 2, 2, 5)
    share = slice(rank * 8 // world_size, (rank + 1) * 8 // world_size)
    with group(rank, world_size, str(folder), form):
        value = loss(head(features[share]), tower(CAPTIONS[share]))
        value.backward()
        parts = {"loss": value.detach()}
        for prefix, module in (("head", head), ("loss", loss)):
            parts.update({f"{prefix}.{name}": p.grad for name, p in module.named_parameters()})
        for part in parts.values():
            if world_size > 1:
                torch.distributed.all_reduce(part)
            part /= world_size
        if rank == 0:
            torch.save(parts, folder / f"{form}{world_size}.pt")


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
