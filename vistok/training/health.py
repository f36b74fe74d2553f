"""Watches over the codebook: warns where codes die, revives them, and stops a run that collapses."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import WandbLogger
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from vistok.errors import RecipeError, VistokError
from vistok.evaluation import CodebookUsage
from vistok.tokenizer import Tokenizer
from vistok.training.usage import StreamWindows, log_key

# wandb sends an e-mail for an alert: not more often than this
_BETWEEN_ALERTS = timedelta(minutes=10)


class CodebookWatchdog(pl.Callback):
    """Counts codes over windows of training and speaks up where too few of them are chosen.

    Logs ``watchdog/usage`` (share of codes chosen, in [0, 1]), ``watchdog/perplexity`` (in [1, K]) and
    ``watchdog/dead_rate`` (share of codes that nobody chose), of the training images of each window: exact, and the same
    at any number of processes, since counts are summed over them. With several groups or stages they are means.

    A window is unhealthy if less than ``min_usage`` of the codes that it could have chosen were chosen: of K, or of the
    number of its tokens where that is smaller. It is warned of, in wandb by an alert too.

    Args:
        window: Optimizer steps of a window.
        min_usage: In [0, 1]; 0 never warns.
        revive: Replaces the dead codes of an unhealthy window by latents of its last batch, where the quantizer offers
            it (``Quantizer.revive``).
        stop_after: Unhealthy windows in a row that stop the training; 0 never stops it.

    Raises:
        RecipeError: an argument out of its range.
    """

    def __init__(
        self, window: int = 500, min_usage: float = 0.05, revive: bool = False, stop_after: int = 0
    ) -> None:
        if window < 1 or not 0 <= min_usage <= 1 or stop_after < 0:
            raise RecipeError(
                f"watchdog: window must be at least 1, min_usage in [0, 1] and stop_after at least 0, "
                f"they are {window}, {min_usage} and {stop_after}"
            )
        self.window, self.min_usage, self.revive, self.stop_after = window, min_usage, revive, stop_after
        self.num_unhealthy = 0
        self._counts = StreamWindows(window)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Gathers one micro-batch; at the end of a window logs, and acts where it is unhealthy.

        Raises:
            VistokError: on every process, after ``stop_after`` unhealthy windows in a row.
        """
        tokenizer = pl_module.tokenizer
        finished = self._counts.add(outputs, tokenizer)
        for stream, usage in finished.items():
            values = {"usage": usage.usage, "perplexity": usage.perplexity, "dead_rate": dead_rate(usage)}
            named = {log_key("watchdog", stream, name, tokenizer): value for name, value in values.items()}
            pl_module.log_dict(named, batch_size=1)
        unhealthy = {s: usage for s, usage in finished.items() if share_of_reachable(usage) < self.min_usage}
        if not unhealthy:
            self.num_unhealthy = 0 if finished else self.num_unhealthy
            return
        self.num_unhealthy += 1
        several = len(tokenizer.streams) > 1
        found = "; ".join(
            (f"stream {stream}, " if several else "") + describe(usage, self.window, pl_module.step)
            for stream, usage in unhealthy.items()
        )
        if self.stop_after and self.num_unhealthy >= self.stop_after:
            alert(trainer, "codebook collapsed", found, "ERROR")
            raise VistokError(
                f"{found}, for {self.num_unhealthy} windows in a row: training stopped; lower the learning rate, let "
                "codes be revived (watchdog.revive, the quantizer's revive_after) or take a smaller codebook"
            )
        if self.revive and revive(
            tokenizer, {s: u.counts == 0 for s, u in unhealthy.items()}, outputs["image"]
        ):
            found += "; dead codes were revived"
        alert(trainer, "few codes in use", found, "WARN")
        rank_zero_warn(found)

    def state_dict(self) -> dict[str, Any]:
        """The unhealthy windows in a row; a window that an interruption cut short starts anew."""
        return {"num_unhealthy": self.num_unhealthy}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self.num_unhealthy = int(state_dict["num_unhealthy"])


def dead_rate(usage: CodebookUsage) -> float:
    """Share of codes that never occurred, in [0, 1], over all groups."""
    return usage.num_dead / usage.counts.numel()


def share_of_reachable(usage: CodebookUsage) -> float:
    """Share of the codes that so many tokens could have chosen, in [0, 1]; 1 before the first token."""
    reachable = min(usage.codebook_size, usage.num_tokens)
    return usage.usage * usage.codebook_size / reachable if reachable else 1.0


def describe(usage: CodebookUsage, window: int, step: int) -> str:
    """A window in one line."""
    used = usage.counts.numel() - usage.num_dead
    return (
        f"step {step}: the last {window} steps chose {used} of {usage.counts.numel()} codes with "
        f"{usage.num_tokens} tokens, perplexity {usage.perplexity:.1f}"
    )


def alert(trainer: pl.Trainer, title: str, text: str, level: str) -> None:
    """Raises an alert in wandb, where the run logs there; on the first process alone."""
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.alert(title=title, text=text, level=level, wait_duration=_BETWEEN_ALERTS)


@torch.no_grad()
def revive(tokenizer: Tokenizer, dead: Mapping[str, Tensor], image: Tensor) -> bool:
    """Lets quantizers replace dead codes by latents of a batch; returns whether any did. Collective.

    Args:
        tokenizer: Its frozen quantizers, those in evaluation mode, are left alone.
        dead: By stream, (S, K) boolean.
        image: (B, 3, H, W).
    """
    chosen = [
        (parts, dead[name])
        for name, parts in tokenizer.streams.items()
        if name in dead and parts.quantizer.training
    ]
    if not chosen:
        return False
    modes = [(part, part.training) for part in tokenizer.modules()]
    tokenizer.eval()
    latents = [parts.rows(image) for parts, _ in chosen]
    for part, mode in modes:
        part.training = mode
    # all of them: a collective must not depend on what another quantizer could
    revived = [
        parts.quantizer.revive(codes.to(latent.device), latent)
        for (parts, codes), latent in zip(chosen, latents, strict=True)
    ]
    return any(revived)
