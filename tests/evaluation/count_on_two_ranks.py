"""One of two processes of test_codebook: ``python count_on_two_ranks.py RANK FOLDER``."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from vistok.evaluation import CodebookUsage

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
usage = CodebookUsage(8, 2)  # built before the process group exists, as under Lightning
dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
usage.update(torch.arange(4).view(1, 2, 2) + 4 * rank)
usage.reduce()
torch.save(usage.counts, folder / f"{rank}.pt")
dist.destroy_process_group()
