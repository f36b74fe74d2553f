"""Watches over the codebook: warns where codes die, revives them, and stops a run that collapses."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import WandbLogger
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from vistok.errors import RecipeError, VistokError
from vistok.evaluation import CodebookUsage
from vistok.training.usage import UsageWindow

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
        self._counts = UsageWindow(window)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Gathers one micro-batch; at the end of a window logs, and acts where it is unhealthy.

        Raises:
            VistokError: on every process, after ``stop_after`` unhealthy windows in a row.
        """
        quantizer = pl_module.tokenizer.quantizer
        usage = self._counts.add(outputs, quantizer.codebook_size)
        if usage is None:
            return
        values = {"usage": usage.usage, "perplexity": usage.perplexity, "dead_rate": dead_rate(usage)}
        pl_module.log_dict({f"watchdog/{name}": value for name, value in values.items()}, batch_size=1)
        if share_of_reachable(usage) >= self.min_usage:
            self.num_unhealthy = 0
            return
        self.num_unhealthy += 1
        found = describe(usage, self.window, pl_module.step)
        if self.stop_after and self.num_unhealthy >= self.stop_after:
            alert(trainer, "codebook collapsed", found, "ERROR")
            raise VistokError(
                f"{found}, for {self.num_unhealthy} windows in a row: training stopped; lower the learning rate, let "
                "codes be revived (watchdog.revive, the quantizer's revive_after) or take a smaller codebook"
            )
        if self.revive and revive(pl_module.tokenizer, usage.counts == 0, outputs["image"]):
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
def revive(tokenizer: Any, dead: Tensor, image: Tensor) -> bool:
    """Lets the quantizer replace dead codes by latents of a batch; returns whether it did. Collective.

    Shapes:
        dead (S, K) boolean, image (B, 3, H, W).
    """
    if not tokenizer.quantizer.training:  # it is frozen
        return False
    modes = [(part, part.training) for part in tokenizer.modules()]
    tokenizer.eval()
    latent = tokenizer.rows(image)
    for part, mode in modes:
        part.training = mode
    return bool(tokenizer.quantizer.revive(dead.to(latent.device), latent))
