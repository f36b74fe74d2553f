"""Latents of training images, normalised per channel at the end of a run by all its processes together."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from vistok.evaluation.latents import measure
from vistok.tokenizer import Tokenizer


@torch.no_grad()
def normalise_latents(
    tokenizer: Tokenizer, batches: Iterable[Mapping[str, Any]], num_batches: int, trainer: pl.Trainer
) -> int:
    """Measures the mode's mean and standard deviation per channel, and gives them to the tokenizer's normaliser.

    Collective: all processes measure their own batches and set the same values. Nothing is drawn at random. A channel
    that is constant is shifted, not scaled.

    Args:
        tokenizer: A continuous one, or one with a continuous stream; measured as in evaluation mode.
        batches: Dictionaries with ``image`` (B, 3, H, W) in [-1, 1].
        num_batches: How many of them to look at.
        trainer: Sums over its processes.

    Returns:
        How many images were measured, over all processes.
    """
    images = (batch["image"] for batch in itertools.islice(batches, num_batches))
    statistics, normaliser = measure(tokenizer, images)
    assert statistics.sums is not None
    statistics.sums = _over_processes(statistics.sums, trainer)
    statistics.give_to(normaliser)
    num_images = torch.tensor(float(statistics.num_images), dtype=torch.float64)
    return int(_over_processes(num_images, trainer))


def _over_processes(values: Tensor, trainer: pl.Trainer) -> Tensor:
    if trainer.world_size == 1:
        return values
    total = trainer.strategy.reduce(values.to(trainer.strategy.root_device), reduce_op="sum")
    assert isinstance(total, Tensor)
    return total.cpu()
