"""The live line of a training run."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

# metric -> (name on the bar, format)
_SHOWN = {
    "loss/total": ("loss", "{:.3f}"),
    "val/psnr": ("held-out PSNR", "{:.2f} dB"),
    "codebook/usage": ("usage", "{:.0%}"),
    "codebook/perplexity": ("perplexity", "{:.0f}"),
}


class LiveBar(ProgressBar):
    """One line: steps, speed, loss, held-out PSNR, codebook usage and perplexity.

    Args:
        refresh: Seconds between two refreshes. Each reads the loss, which waits for a GPU.
    """

    def __init__(self, refresh: float = 0.5) -> None:
        super().__init__()
        self.refresh = refresh
        self._bar: tqdm[Any] | None = None
        self._enabled = True
        self._last = 0.0

    def disable(self) -> None:
        """Shows nothing; Lightning calls it on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Shows the bar again."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Opens the bar at the step where training goes on."""
        if self._enabled:
            total = trainer.max_steps if trainer.max_steps > 0 else None
            layout = "{n_fmt}/{total_fmt} |{bar:12}| {rate_fmt} [{elapsed}<{remaining}]{postfix}"
            width = shutil.get_terminal_size((0, 0)).columns
            self._bar = tqdm(
                total=total,
                initial=pl_module.step,
                unit="step",
                mininterval=self.refresh,
                # tqdm shows nothing in a terminal that says it has 0 columns and rows
                ncols=None if width else 100,
                nrows=None if width else 24,
                dynamic_ncols=bool(width),
                file=sys.stderr,
                bar_format=layout if total else None,
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar, at most once in ``refresh`` seconds."""
        now = time.monotonic()
        if self._bar is None or (now - self._last < self.refresh and pl_module.step != trainer.max_steps):
            return
        self._last = now
        self._show(trainer, pl_module.step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Shows the new held-out PSNR."""
        if self._bar is not None:
            self._show(trainer, pl_module.step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Leaves the last line standing."""
        if self._bar is not None:
            self._show(trainer, pl_module.step)
            self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Leaves the last line standing, so that the error stands on a line of its own."""
        self._close()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Prints above the bar."""
        tqdm.write(" ".join(str(arg) for arg in args), file=sys.stderr)

    def _show(self, trainer: pl.Trainer, step: int) -> None:
        assert self._bar is not None
        metrics = {**trainer.callback_metrics}
        shown = [
            f"{name} {form.format(float(metrics[key]))}"
            for key, (name, form) in _SHOWN.items()
            if key in metrics
        ]
        self._bar.set_postfix_str("  ".join(shown), refresh=False)
        self._bar.update(step - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
