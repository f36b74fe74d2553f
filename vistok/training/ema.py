"""A moving average of a tokenizer's weights: what validation looks at and what is exported."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from vistok.errors import RecipeError
from vistok.tokenizer.normaliser import latent_grids, take_grids


class EMA(nn.Module):
    """Holds a copy of a module whose weights are moving averages of the original's.

    The decay grows with the steps as min(decay, (1 + step) / (10 + step)), so that early weights are soon
    forgotten; the rule is TensorFlow's ``ExponentialMovingAverage``. Buffers are copied, not averaged.

    Args:
        source: What to average; it is copied, never held.
        decay: In [0, 1).

    Raises:
        RecipeError: a decay out of its range.
    """

    def __init__(self, source: nn.Module, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise RecipeError(f"ema_decay is {decay}, it must lie in [0, 1)")
        self.decay = decay
        self.average = copy.deepcopy(source).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> EMA:
        """Stays in eval mode: the average is never trained."""
        super().train(mode)
        self.average.eval()
        return self

    @torch.no_grad()
    def reset(self, source: nn.Module) -> None:
        """Begins anew at the weights of ``source`` (after k-means has set a codebook)."""
        take_grids(self.average, latent_grids(source))
        self.average.load_state_dict(source.state_dict())

    @torch.no_grad()
    def update(self, source: nn.Module, step: int) -> None:
        """Moves towards the weights of ``source`` after the optimizer step numbered ``step``, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages: list[Tensor] = []
        weights: list[Tensor] = []
        for average, weight in zip(self.average.parameters(), source.parameters(), strict=True):
            # frozen weights do not move, and codes without gradients are averages themselves
            if weight.requires_grad and average.is_floating_point():
                averages.append(average)
                weights.append(weight.to(average.dtype))
            else:
                average.copy_(weight)
        if averages:
            torch._foreach_lerp_(averages, weights, 1 - decay)
        take_grids(self.average, latent_grids(source))
        for copied, buffer in zip(self.average.buffers(), source.buffers(), strict=True):
            copied.copy_(buffer)
