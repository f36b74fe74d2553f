"""What processes of one group share, for code that runs on several of them as data-parallel training does."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist


@contextmanager
def group(rank: int, world_size: int, folder: str, name: str = "") -> Iterator[None]:
    """A gloo group around the block, on one thread a process; with one process there is no group.

    A process of a group ends with the block: gloo's threads do not always survive that Python is torn down around them.
    """
    if world_size == 1:
        yield
        return
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / f"store{world_size}{name}"), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    yield
    dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
