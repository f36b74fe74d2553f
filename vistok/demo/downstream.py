"""Trains the downstream model on token shards and compares it with the unigram distribution."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from vistok.demo.transformer import TokenTransformer
from vistok.errors import DataError
from vistok.tokenizer import Tokenizer

BATCH_SIZE = 32
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.05
WARMUP = 0.05
CHECKS = 12
CHECKED = 192
MOST_TILES = 256


@dataclass(frozen=True)
class Point:
    """One look at the model: bits per token on training and held-out tiles, both without dropout."""

    step: int
    train_bits: float
    held_out_bits: float


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

    def spent(self, elapsed: float, step: int) -> float:
        """The share that is used up, from 0; the end is at 1."""
        by_time = 0.0 if self.seconds is None else elapsed / max(self.seconds, 1e-9)
        by_steps = 0.0 if self.steps is None else step / max(self.steps, 1)
        return max(by_time, by_steps)


def read_tokens(shards: Path, splits: tuple[str, ...] = ("train", "held_out")) -> dict[str, Tensor]:
    """The tokens of the tiles in a shard directory, by the ``split`` that the demo stored beside them.

    No photograph gives more than 256 tiles, evenly chosen: a large sky would else be most of what is learned.

    Shapes:
        -> split: (tiles, N) int64.

    Raises:
        DataError: a split without tiles.
    """
    import vistok.shards

    found: dict[tuple[str, str], list[Tensor]] = {}
    loader: DataLoader[Any] = DataLoader(vistok.shards.open(shards), batch_size=64, collate_fn=list)
    for items in loader:
        for item in items:
            found.setdefault((item["split"], item["photo"]), []).append(item["indices"].flatten())
    result = {}
    for split in splits:
        chosen = [
            tile for (of, _), tiles in found.items() if of == split for tile in _evenly(tiles, MOST_TILES)
        ]
        if not chosen:
            raise DataError(f"{shards} holds no tokens of split {split!r}: delete it and run the demo again")
        result[split] = torch.stack(chosen)
    return result


def _evenly(tiles: list[Tensor], limit: int) -> list[Tensor]:
    if len(tiles) <= limit:
        return tiles
    return [tiles[i * len(tiles) // limit] for i in range(limit)]


def frequencies(tokens: Tensor, codebook_size: int) -> Tensor:
    """Add-one smoothed share of each code among tokens of any shape: (K,), sums to 1."""
    counts = torch.bincount(tokens.flatten(), minlength=codebook_size).double() + 1
    return counts / counts.sum()


def unigram_bits(train: Tensor, evaluated: Tensor, codebook_size: int) -> float:
    """Bits per token that the training tokens' frequencies (add-one smoothed) cost on the evaluated tokens."""
    log2 = frequencies(train, codebook_size).log2()
    return -float(log2[evaluated.flatten()].mean())


def entropy_bits(tokens: Tensor, codebook_size: int) -> float:
    """Entropy of the tokens' own frequencies, unsmoothed, in bits: what the best fixed distribution would cost."""
    share = torch.bincount(tokens.flatten(), minlength=codebook_size).double() / tokens.numel()
    share = share[share > 0]
    return -float((share * share.log2()).sum())


def build(tokenizer: Tokenizer, train: Tensor, grid: tuple[int, int], **sizes: Any) -> TokenTransformer:
    """A downstream model that reads the tokens of one tokenizer.

    Args:
        tokenizer: Discrete, with one index per position.
        train: (tiles, N) training tokens, for the frequencies.
        grid: (h, w) with h * w = N.
        sizes: ``width``, ``depth``, ``num_heads``, ``dropout`` of ``TokenTransformer``.
    """
    codebook_size = tokenizer.spec.main.codebook_size
    assert codebook_size is not None
    with torch.no_grad():
        vectors = tokenizer.embed(torch.arange(codebook_size).reshape(1, -1, 1))[0]
    return TokenTransformer(vectors, frequencies(train, codebook_size), grid, **sizes)


def loss_bits(model: TokenTransformer, tokens: Tensor) -> float:
    """Mean bits per token of tiles (tiles, N), without dropout."""
    was_training = model.training
    model.eval()
    total = 0.0
    with torch.no_grad():
        for batch in torch.split(tokens, 4 * BATCH_SIZE):
            total += float(_cross_entropy(model, batch)) * batch.numel()
    model.train(was_training)
    return total / tokens.numel() / math.log(2)


def fit(
    model: TokenTransformer,
    train: Tensor,
    held_out: Tensor,
    budget: Budget,
    on_step: Callable[[int, float, float, Point], None] = lambda step, spent, bits, point: None,
    seed: int = 0,
) -> list[Point]:
    """Trains a model in place with AdamW; warm-up, then a cosine to zero over the budget.

    Args:
        model: To train.
        train: (tiles, N) tokens.
        held_out: (tiles, N) tokens of photographs that ``train`` has nothing of; looked at, never learned from.
        budget: When to end.
        on_step: Called with step, share of the budget, training bits of the batch (with dropout) and the last look.
        seed: Of the order and of dropout.

    Returns:
        Looks at the model at regular intervals, at 192 tiles of each; the last one, at all tiles, is the result.
    """
    torch.manual_seed(seed)
    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))
    batches = _endless(train, seed)
    looked_at = [split[torch.randperm(len(split))[:CHECKED]] for split in (train, held_out)]
    points: list[Point] = []
    start, step, spent = time.monotonic(), 0, 0.0
    model.train()
    while spent < 1:
        if spent * CHECKS >= len(points):
            points.append(Point(step, *(loss_bits(model, tiles) for tiles in looked_at)))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(spent / WARMUP + 0.01, 0.5 + 0.5 * math.cos(math.pi * spent))
        loss = _cross_entropy(model, next(batches))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        spent = budget.spent(time.monotonic() - start, step)
        on_step(step, min(spent, 1.0), float(loss.detach()) / math.log(2), points[-1])
    points.append(Point(step, loss_bits(model, train), loss_bits(model, held_out)))
    model.eval()
    return points


def _endless(tokens: Tensor, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    dataset = TensorDataset(tokens)
    while True:
        order = RandomSampler(dataset, generator=generator)
        for (batch,) in DataLoader(dataset, batch_size=BATCH_SIZE, sampler=order):
            yield batch


def _cross_entropy(model: TokenTransformer, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens.flatten())
