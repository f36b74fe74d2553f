"""Trains a downstream model for a stated time and looks at what held-out images cost it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from vistok.downstream.base import Backbone, Batch

BATCH_SIZE = 32
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.05
WARMUP = 0.05
# where the machine is so slow that a share of the time is few steps
WARMUP_STEPS = 20
CHECKS = 12
# share of the time that looks may take, the first and the last not counted
CHECKING = 0.2
CHECKED = 192
# a batch is smaller where its scores would be more numbers than this
MOST_SCORES = 1 << 25


@dataclass(frozen=True)
class Point:
    """One look at the model: mean cost of training and held-out images, both without dropout, in the model's unit."""

    step: int
    train: float
    held_out: float


@dataclass(frozen=True)
class Budget:
    """How long to train: whichever of the limits is met first; at least one is set.

    Args:
        seconds: Wall time.
        steps: Optimizer steps.
    """

    seconds: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.seconds is None and self.steps is None:
            raise ValueError("a budget needs seconds or steps")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"a budget of {self.steps} steps trains nothing: give at least 1")

    def __str__(self) -> str:
        limits = (
            None if self.seconds is None else f"{self.seconds:g} s",
            None if self.steps is None else f"{self.steps} steps",
        )
        return " or ".join(limit for limit in limits if limit)

    def spent(self, elapsed: float, step: int) -> float:
        """The share that is used up, from 0; the end is at 1."""
        by_time = 0.0 if self.seconds is None else elapsed / max(self.seconds, 1e-9)
        by_steps = 0.0 if self.steps is None else step / max(self.steps, 1)
        return max(by_time, by_steps)


def mean_cost(model: Backbone, images: Batch, num_draws: int = 1, seed: int = 0) -> float:
    """Mean cost of images in the model's unit, without dropout; the same draws at every call.

    Args:
        model: Not trained here.
        images: Its ``inputs``.
        num_draws: Costs of each image, where costs are drawn.
        seed: Of the draws.
    """
    was_training = model.training
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    with torch.no_grad():
        for _ in range(num_draws):
            for batch in zip(*(torch.split(t, 4 * batch_size(model)) for t in images), strict=True):
                total += float(model.costs([t.to(model.device) for t in batch], generator).sum())
    model.train(was_training)
    return total / len(images[0]) / num_draws


def fit(
    model: Backbone,
    train: Batch,
    held_out: Batch,
    budget: Budget,
    on_step: Callable[[int, float, float, Point], None] = lambda step, spent, loss, point: None,
    seed: int = 0,
    whole: bool = False,
) -> list[Point]:
    """Trains a model in place with AdamW; warm-up over at least 20 steps, then a cosine to zero over the budget.

    Args:
        model: To train.
        train: Its ``inputs``, one row an image.
        held_out: The same of images that ``train`` has nothing of; looked at, never learned from.
        budget: When to end.
        on_step: Called with step, share of the budget, training loss of the batch (with dropout) and the last look.
        seed: Of the order and of dropout.
        whole: Whether the last look is at all training images too.

    Returns:
        Looks at the model at regular intervals, at 192 images of each, fewer where they would take more than a fifth of
        the time; the last one, at all held-out images, is the result.
    """
    torch.manual_seed(seed)
    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))
    batches = _endless(train, batch_size(model), seed)
    looked_at = [_some(images) for images in (train, held_out)]
    points: list[Point] = []
    start, step, spent = time.monotonic(), 0, 0.0
    due, looking = 0, 0.0
    model.train()
    while spent < 1:
        # without a time limit looks take the time they need, so that the same seed gives the same points
        hurried = budget.seconds is not None and looking > CHECKING * budget.seconds * spent
        if spent * CHECKS >= due and not hurried:
            began, due = time.monotonic(), math.floor(spent * CHECKS) + 1
            points.append(Point(step, *(mean_cost(model, images) for images in looked_at)))
            looking += time.monotonic() - began if step else 0.0
        warm = min(spent / WARMUP + 0.01, (step + 1) / WARMUP_STEPS)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(warm, 0.5 + 0.5 * math.cos(math.pi * spent))
        loss = model.loss([t.to(model.device) for t in next(batches)])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        spent = budget.spent(time.monotonic() - start, step)
        on_step(step, min(spent, 1.0), float(loss.detach()), points[-1])
    ended = mean_cost(model, train if whole else looked_at[0])
    points.append(Point(step, ended, mean_cost(model, held_out, model.num_draws)))
    model.eval()
    return points


def batch_size(model: Backbone) -> int:
    """Images of a training batch: 32, or fewer where each has many scores."""
    return max(1, min(BATCH_SIZE, MOST_SCORES // max(1, model.num_scores)))


def _some(images: Batch) -> list[Tensor]:
    chosen = torch.randperm(len(images[0]))[:CHECKED]
    return [tensor[chosen] for tensor in images]


def _endless(images: Batch, size: int, seed: int) -> Iterator[list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    dataset = TensorDataset(*images)
    while True:
        order = RandomSampler(dataset, generator=generator)
        yield from DataLoader(dataset, batch_size=size, sampler=order)
