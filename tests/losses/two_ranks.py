"""One of two processes of test_adversarial: ``python two_ranks.py RANK FOLDER``."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from vistok.losses import Adversarial


class MeanLogit(nn.Module):
    """The mean of an image as its logit."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """One logit per image."""
        return image.mean((1, 2, 3))


rank, folder = int(sys.argv[1]), Path(sys.argv[2])
adversarial = Adversarial(MeanLogit(), lecam_weight=1.0)
adversarial.lecam_decay = 0.5
dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
value = float(1 + 2 * rank)
adversarial.discriminator_loss(torch.full((2, 3, 4, 4), value), torch.full((2, 3, 4, 4), -value))
adversarial.update()
torch.save(torch.stack([adversarial.ema_real, adversarial.ema_fake]), folder / f"{rank}.pt")
dist.destroy_process_group()
