"""How much of the codebook training uses: exact counts over a window of steps."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from vistok.evaluation import CodebookUsage
from vistok.tokenizer import Tokenizer

# 2^24 counters take 128 MB; larger codebooks are grids that are never learned, so nothing in them can die
_MOST_CODES = 1 << 24
# indices are gathered on their device and counted together, so that a GPU is waited for rarely: 32 MB
_MOST_PENDING = 1 << 22


class UsageWindow:
    """Counts the indices of training steps until a window is full.

    Args:
        length: Optimizer steps of a window.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self._usage: CodebookUsage | None = None
        self._pending: list[Tensor] = []
        self._num_steps = 0

    def add(self, outputs: Any, codebook_size: int | None) -> CodebookUsage | None:
        """Gathers what ``training_step`` gave; at the end of a window the counts over all processes, else None.

        Collective at the end of a window. A tokenizer without a codebook, or with one too large to count, has no window.
        """
        indices = outputs["indices"]
        if indices is None or codebook_size is None or codebook_size > _MOST_CODES:
            return None
        if self._usage is None:
            self._usage = CodebookUsage(codebook_size, indices.shape[-1])
        self._pending.append(indices.detach().flatten(0, 1))
        self._num_steps += bool(outputs["stepped"])
        finished = self._num_steps >= self.length
        if finished or sum(part.numel() for part in self._pending) > _MOST_PENDING:
            self._usage.update(torch.cat(self._pending))
            self._pending = []
        if not finished:
            return None
        usage, self._usage, self._num_steps = self._usage, None, 0
        usage.reduce()
        return usage


class StreamWindows:
    """A window for each stream of a tokenizer.

    Args:
        length: Optimizer steps of a window.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self._windows: dict[str, UsageWindow] = {}

    def add(self, outputs: Any, tokenizer: Tokenizer) -> dict[str, CodebookUsage]:
        """Gathers what ``training_step`` gave; at the end of a window the counts by stream, else nothing. Collective."""
        finished: dict[str, CodebookUsage] = {}
        for name, parts in tokenizer.streams.items():
            window = self._windows.setdefault(name, UsageWindow(self.length))
            own = {"indices": outputs["streams"].get(name), "stepped": outputs["stepped"]}
            usage = window.add(own, parts.quantizer.codebook_size)
            if usage is not None:
                finished[name] = usage
        return finished


def log_key(section: str, stream: str, name: str, tokenizer: Tokenizer) -> str:
    """What a stream's value is logged under: ``codebook/usage``, or ``codebook/pixel/usage`` where there are several."""
    return f"{section}/{stream}/{name}" if len(tokenizer.streams) > 1 else f"{section}/{name}"


class UsageMonitor(pl.Callback):
    """Logs ``codebook/usage`` and ``codebook/perplexity`` of the training images of each window.

    Where a tokenizer has several streams, each has its own: ``codebook/<stream>/usage``.

    usage is the share of codes that were chosen at least once, in [0, 1]; perplexity is exp(entropy of the index
    frequencies), in [1, K]. With several groups or stages both are means over these. Both are exact, over all
    processes, and start anew with each window. Nothing is logged for a tokenizer without a codebook.

    Args:
        window: Optimizer steps of a window.
    """

    def __init__(self, window: int = 100) -> None:
        self.window = window
        self._counts = StreamWindows(window)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Gathers one micro-batch; at the end of a window counts, logs and starts anew."""
        tokenizer = pl_module.tokenizer
        for stream, usage in self._counts.add(outputs, tokenizer).items():
            values = {"usage": usage.usage, "perplexity": usage.perplexity}
            named = {log_key("codebook", stream, name, tokenizer): value for name, value in values.items()}
            pl_module.log_dict(named, batch_size=1)
