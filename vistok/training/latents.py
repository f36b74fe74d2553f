"""Mean and standard deviation of a continuous tokenizer's latents, so that a generative model sees N(0, 1)-like ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from vistok.tokenizer import Tokenizer


@torch.no_grad()
def normalise_latents(
    tokenizer: Tokenizer, batches: Iterable[Mapping[str, Any]], num_batches: int, trainer: pl.Trainer
) -> int:
    """Measures the mode's mean and standard deviation per channel, and gives them to the tokenizer's normaliser.

    Collective: all processes measure their own batches and set the same values. Nothing is drawn at random. A channel
    that is constant is shifted, not scaled.

    Args:
        tokenizer: A continuous one; measured as in evaluation mode.
        batches: Dictionaries with ``image`` (B, 3, H, W) in [-1, 1].
        num_batches: How many of them to look at.
        trainer: Sums over its processes.

    Returns:
        How many images were measured, over all processes.
    """
    normaliser = tokenizer.normaliser
    assert normaliser is not None
    normaliser.set(0.0, 1.0)  # so that encode gives raw latents
    sums = torch.zeros(2, normaliser.dim, dtype=torch.float64)
    counts = torch.zeros(2, dtype=torch.float64)  # vectors, images
    for batch in itertools.islice(batches, num_batches):
        encoded = tokenizer.encode(batch["image"].to(tokenizer.device)).latents
        assert encoded is not None
        vectors = encoded.flatten(0, 1).cpu().double()  # small, and not every accelerator has float64
        sums += torch.stack([vectors.sum(0), vectors.square().sum(0)])
        counts += torch.tensor([len(vectors), len(encoded)])
    sums, counts = _over_processes(sums, trainer), _over_processes(counts, trainer)
    mean = sums[0] / counts[0]
    std = (sums[1] / counts[0] - mean.square()).clamp(min=0).sqrt()
    scale = torch.where(std > 1e-6, 1 / std, 1.0)
    normaliser.set(mean.tolist(), scale.tolist())
    return int(counts[1])


def _over_processes(values: Tensor, trainer: pl.Trainer) -> Tensor:
    if trainer.world_size == 1:
        return values
    total = trainer.strategy.reduce(values.to(trainer.strategy.root_device), reduce_op="sum")
    assert isinstance(total, Tensor)
    return total.cpu()
