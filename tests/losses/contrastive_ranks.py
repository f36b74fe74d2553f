"""One of several processes of test_contrastive: ``python -m tests.losses.contrastive_ranks RANK WORLD_SIZE FOLDER``."""

import sys
from pathlib import Path

import torch
from torch import nn

from tests.losses.towers import Letters
from tests.ranks import group
from vistok.losses import Contrastive

CAPTIONS = ["a cat", "two dogs", "a bee", "fir", "an ox", "moss", "a red hen", "ice"]


def run(rank: int, world_size: int, folder: Path) -> None:
    """Loss and gradients of both forms, of this process's share, averaged over processes as data-parallel training does."""
    with group(rank, world_size, str(folder)):
        found = {form: measured(form, rank, world_size) for form in ("sigmoid", "softmax")}
        if rank == 0:
            torch.save(found, folder / f"{world_size}.pt")


def measured(form: str, rank: int, world_size: int) -> dict[str, torch.Tensor]:
    """The loss and the gradient of every weight, by name."""
    torch.manual_seed(0)
    tower, head = Letters(6), nn.Linear(5, 6)
    loss = Contrastive(tower, form, frozen=False, scale=3.0, bias=-1.0)
    features = torch.randn(8, 2, 2, 5)
    share = slice(rank * 8 // world_size, (rank + 1) * 8 // world_size)
    value = loss(head(features[share]), tower(CAPTIONS[share]))
    value.backward()
    parts = {"loss": value.detach()}
    for prefix, module in (("head", head), ("loss", loss)):
        parts.update({f"{prefix}.{name}": p.grad for name, p in module.named_parameters()})
    for part in parts.values():
        if world_size > 1:
            torch.distributed.all_reduce(part)
        part /= world_size
    return parts


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
