"""Trains for a stated time on a machine of unknown speed, and says how it goes."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import lightning.pytorch as pl

from vistok.report.console import Bar

_VALIDATIONS = 10
_NEVER = 1 << 60


class Pace(pl.Callback):
    """Makes a run end after some seconds with its learning rate at the end of the cosine.

    The share of time that is over takes the place of the share of steps: after each step the cosine's length is set to
    the number of steps that the whole run will have had at this pace. Validation comes at ten equal intervals of
    time. A checkpoint carries the time that was used, so a resumed run trains for the rest.

    Args:
        seconds: Wall time of training, validation included.
        bar: Shows speed, losses, held-out PSNR, usage and perplexity.
    """

    def __init__(self, seconds: float, bar: Bar) -> None:
        self.seconds, self._bar = seconds, bar
        self._before, self._start, self._validated = 0.0, 0.0, 0
        self._first_step = 0
        self._settings: Any = None

    @property
    def elapsed(self) -> float:
        """Seconds of training so far, over all runs."""
        return self._before + (time.monotonic() - self._start if self._start else 0.0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Starts the clock."""
        self._settings = pl_module.settings
        self._start, self._first_step = time.monotonic(), pl_module.step
        self._validated = int(_VALIDATIONS * self.elapsed / self.seconds)
        trainer.val_check_batch = _NEVER

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Sets the rest of the schedule from the pace so far."""
        if not outputs["stepped"]:
            return
        share = self.elapsed / self.seconds
        if share >= 1:
            trainer.should_stop = True
            return
        planned = max(2, round(pl_module.step / share))
        pl_module.settings = dataclasses.replace(
            self._settings, cosine_steps=planned, warmup_steps=min(self._settings.warmup_steps, planned // 10)
        )
        due = int(_VALIDATIONS * share) > self._validated
        # Lightning validates where the number of batches is a multiple of this
        trainer.val_check_batch = 1 if due else _NEVER
        self._validated += due
        self._bar.show(share, self._text(trainer, pl_module.step))

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Leaves the last line standing."""
        if trainer.should_stop:
            self._bar.show(min(1.0, self.elapsed / self.seconds), self._text(trainer, pl_module.step))
        self._bar.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Leaves the last line standing."""
        self._bar.close()

    def state_dict(self) -> dict[str, Any]:
        """The time that was used."""
        return {"elapsed": self.elapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from the time that was used."""
        self._before = float(state_dict["elapsed"])

    def _text(self, trainer: pl.Trainer, step: int) -> str:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        seconds = max(time.monotonic() - self._start, 1e-9)
        parts = [
            f"{min(self.elapsed, self.seconds):.0f}/{self.seconds:.0f} s",
            f"{(step - self._first_step) / seconds:.1f} steps/s",
        ]
        for name, form in (
            ("val/psnr", "held-out {:.2f} dB"),
            ("codebook/usage", "usage {:.0%}"),
            ("codebook/perplexity", "perplexity {:.0f}"),
            ("loss/total", "loss {:.3f}"),
        ):
            if name in metrics:
                parts.append(form.format(metrics[name]))
        terms = [
            f"{n[5:]} {v:.3f}"
            for n, v in metrics.items()
            if n.startswith("loss/") and n != "loss/total" and not n.endswith(("_step", "_epoch"))
        ]
        return "  ".join([*parts, f"({' '.join(terms)})" if terms else ""]).rstrip()
