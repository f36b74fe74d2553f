"""What a run leaves behind: checkpoints to go on from, and the tokenizer to use."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint as CheckpointBase
from lightning_utilities.core.rank_zero import rank_zero_info

from vistok.errors import RecipeError, VistokError
from vistok.tokenizer import Tokenizer
from vistok.training.data import ImageData
from vistok.training.latents import normalise_latents
from vistok.training.provenance import provenance_of_training


class Checkpoint(CheckpointBase):
    """Writes ``<run>/checkpoints/last.ckpt`` every so many steps and at the end: for ``--ckpt_path``, to go on exactly.

    A new file takes the old one's name only when it is whole, and is looked for afterwards, because Lightning
    reports a failed write as success (Lightning issue 21800).

    Args:
        every: Optimizer steps between two; 0 writes at the end only.
        keep: Also keep ``step=<n>.ckpt`` of this many latest ones.
        enabled: False writes none.
    """

    def __init__(self, every: int = 1000, keep: int = 0, enabled: bool = True) -> None:
        self.every, self.keep, self.enabled = every, keep, enabled
        self._kept: list[str] = []
        self._saved_step = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Begins counting at the step that training goes on from."""
        self._saved_step = pl_module.step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves when the step counter has moved to a multiple of ``every``."""
        if self.every and outputs["stepped"] and pl_module.step % self.every == 0:
            self._save(trainer, pl_module.step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Saves the last state."""
        self._save(trainer, pl_module.step)

    def _save(self, trainer: pl.Trainer, step: int) -> None:
        if not self.enabled or step == self._saved_step or is_dry_run(trainer):
            return
        folder = run_folder(trainer) / "checkpoints"
        partial, path = folder / "last.partial", folder / "last.ckpt"
        trainer.save_checkpoint(partial, weights_only=False)
        self._saved_step = step
        if trainer.is_global_zero:
            if not partial.is_file():
                raise VistokError(
                    f"the checkpoint {path} was not written: is the disk full or {folder} not writable?"
                )
            if self.keep:
                self._keep(partial, folder / f"step={step}.ckpt")
            partial.replace(path)
        trainer.strategy.barrier("checkpoint")

    def _keep(self, source: Path, target: Path) -> None:
        import shutil

        shutil.copyfile(source, target)
        self._kept.append(str(target))
        while len(self._kept) > self.keep:
            Path(self._kept.pop(0)).unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        """The files that are kept, so that a resumed run goes on replacing them."""
        return {"kept": list(self._kept)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the list."""
        self._kept = list(state_dict["kept"])


class SaveTokenizer(pl.Callback):
    """Writes the exported tokenizer to ``<run>/tokenizer`` at the end, after Ctrl-C too.

    The latents of a continuous tokenizer are normalised per channel: mean 0 and standard deviation 1 over the first
    ``latent_batches`` batches of training crops, measured in evaluation mode on the weights that are exported. Where it
    came from is written into ``spec.provenance``. A second Ctrl-C, in the middle of a step, leaves the latents as they are.

    Args:
        folder: Where to write instead.
        enabled: False writes none.
        licence: Of the weights, an SPDX identifier; "unknown" keeps what the tokenizer says already.
        latent_batches: Batches, over all processes together, to measure latents on; 0 does not normalise them.

    Raises:
        RecipeError: negative ``latent_batches``.
    """

    def __init__(
        self,
        folder: str | None = None,
        enabled: bool = True,
        licence: str = "unknown",
        latent_batches: int = 16,
    ) -> None:
        if latent_batches < 0:
            raise RecipeError(
                f"latent_batches is {latent_batches}: give 0, to leave latents as they are, or more"
            )
        self.folder, self.enabled = folder, enabled
        self.licence, self.latent_batches = licence, latent_batches

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Normalises latents, on all processes together, and writes."""
        tokenizer = pl_module.exported
        measured = self._acts(trainer, pl_module) and self.latent_batches and tokenizer.continuous is not None
        if measured and not _latents_are_kept(pl_module.tokenizer):
            batches = first_batches(trainer)
            num_images = normalise_latents(tokenizer, batches, self.latent_batches, trainer)
            statistics = {"images": num_images}
            tokenizer.provenance = {**tokenizer.provenance, "latent_statistics": statistics}
        self._write(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Writes it if the user stopped the run in the middle of a step."""
        if isinstance(exception, KeyboardInterrupt):
            self._write(trainer, pl_module)

    def path(self, trainer: pl.Trainer) -> Path:
        """Where it is written."""
        return Path(self.folder) if self.folder else run_folder(trainer) / "tokenizer"

    def _acts(self, trainer: pl.Trainer, module: Any) -> bool:
        return self.enabled and module.step > 0 and not is_dry_run(trainer)

    def _write(self, trainer: pl.Trainer, module: Any) -> None:
        if not (self._acts(trainer, module) and trainer.is_global_zero):
            return
        tokenizer = module.exported
        if self.licence != "unknown":
            tokenizer.licence = self.licence
        tokenizer.provenance = {**tokenizer.provenance, **provenance_of_training(module)}
        tokenizer.save(self.path(trainer))


def first_batches(trainer: pl.Trainer) -> Iterable[Any]:
    """The batches that a run began with, wherever it was resumed; of this process."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    if isinstance(data, ImageData):
        return data.training_batches(first=0)
    loader: Iterable[Any] | None = trainer.train_dataloader
    assert loader is not None
    return loader


class StopOnCtrlC(pl.Callback):
    """Ends training after the current step on the first Ctrl-C, so that what is saved is whole; at once on the second.

    ``interrupted`` tells afterwards whether that happened.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._previous: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Takes over the signal; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._on_signal)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops all processes after the same step."""
        if trainer.world_size > 1:
            self.interrupted = trainer.strategy.reduce_boolean_decision(self.interrupted, all=False)
        if self.interrupted and outputs["stepped"]:
            trainer.should_stop = True

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Gives the signal back."""
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        rank_zero_info("\nstopping after this step and saving; Ctrl-C again stops at once")


def run_folder(trainer: pl.Trainer) -> Path:
    """Where a run writes: the Trainer's ``default_root_dir``."""
    return Path(trainer.default_root_dir)


def is_dry_run(trainer: pl.Trainer) -> bool:
    """Whether ``fast_dev_run`` is on, which is to leave nothing behind."""
    return bool(getattr(trainer, "fast_dev_run", False))


def _latents_are_kept(tokenizer: Tokenizer) -> bool:
    """Whether latents have been normalised already and nothing that makes them was trained: shards of them stay right."""
    if tokenizer.continuous is None:
        return False
    _, stream = tokenizer.continuous
    normaliser = stream.normaliser
    parts = (stream.encoder, stream.project_in, stream.quantizer)
    trained = any(parameter.requires_grad for part in parts for parameter in part.parameters())
    is_set = normaliser is not None and not (
        bool((normaliser.shift == 0).all()) and bool((normaliser.scale == 1).all())
    )
    return is_set and not trained
