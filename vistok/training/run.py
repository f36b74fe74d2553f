"""From recipes to a running Trainer: LightningCLI, told where things are."""

from __future__ import annotations

import json
import logging
import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning_utilities.core.rank_zero import rank_zero_info

from vistok.errors import RecipeError
from vistok.training.data import ImageData
from vistok.training.health import CodebookWatchdog
from vistok.training.images import ImageLog
from vistok.training.module import STEP_KEY, TokenizerModule
from vistok.training.progress import LiveBar
from vistok.training.recipe import check_trainer, read_recipe
from vistok.training.saving import Checkpoint, SaveTokenizer, StopOnCtrlC, run_folder
from vistok.training.usage import UsageMonitor

COMMANDS = ("fit", "validate", "test")


class WrongOptionError(RecipeError):
    """An option that does not exist, or a value that it does not take."""


class TrainingCLI(LightningCLI):
    """LightningCLI with vistok's module, data and callbacks; ``run`` starts what the constructor has only built.

    Every callback has a section of its own in a recipe: ``progress``, ``usage``, ``watchdog``, ``images``,
    ``checkpoint``, ``export``.
    """

    def __init__(self, args: Sequence[str], callbacks: Sequence[pl.Callback] = ()) -> None:
        self.interrupt = StopOnCtrlC()
        super().__init__(
            TokenizerModule,
            ImageData,
            save_config_callback=SaveConfigCallback,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"callbacks": [self.interrupt, *callbacks], "enable_model_summary": False},
            seed_everything_default=0,
            parser_kwargs={name: {"exit_on_error": False} for name in COMMANDS} | {"exit_on_error": False},
            args=list(args),
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Fit, validate and test."""
        known = LightningCLI.subcommands()
        return {name: known[name] for name in COMMANDS}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the sections of the callbacks, and one seed for all."""
        for name, callback in (
            ("progress", LiveBar),
            ("usage", UsageMonitor),
            ("watchdog", CodebookWatchdog),
            ("images", ImageLog),
            ("checkpoint", Checkpoint),
            ("export", SaveTokenizer),
        ):
            parser.add_lightning_class_args(callback, name)
        # crops and draws follow the one seed of the recipe
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        # our checkpoints hold plain data, so reading one need not be able to run code
        parser.set_defaults({"weights_only": True})
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses, without Lightning's warning about arguments given by a program."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Looks at the checkpoint before anything is built; it holds no options to merge."""
        assert self.config.subcommand is not None
        path = self.config[self.config.subcommand].get("ckpt_path")
        if path:
            check_checkpoint(Path(path))

    def before_instantiate_classes(self) -> None:
        """Refuses settings that would silently do nothing, before anything is built."""
        assert self.subcommand is not None
        trainer = self.config[self.subcommand].trainer
        check_trainer(trainer.as_dict())
        if (
            self.subcommand == "fit"
            and trainer.max_steps == -1
            and not trainer.max_time
            and not trainer.fast_dev_run
        ):
            raise RecipeError(
                "the recipe does not say when to stop: set trainer.max_steps (steps of the tokenizer's optimizer)"
            )

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Builds the Trainer, with a CSV log in the run's folder unless the recipe names loggers."""
        trainer = self._get(self.config_init, "trainer")
        folder = Path(trainer.get("default_root_dir") or "runs/default")
        kwargs.setdefault("default_root_dir", str(folder))
        if trainer.get("logger") in (None, True):
            keep_old_metrics(folder)
            kwargs.setdefault("logger", CSVLogger(str(folder), name="", version=""))
        return super().instantiate_trainer(**kwargs)

    def _run_subcommand(self, subcommand: str) -> None:
        """Waits for ``run``: who builds the command line wants to hold it when something happens."""

    def run(self) -> None:
        """Runs the command that was asked for.

        Raises:
            RecipeError: a checkpoint that is missing, damaged or of another model.
        """
        assert self.subcommand is not None
        rank_zero_info(describe(self.model, run_folder(self.trainer)))
        try:
            super()._run_subcommand(self.subcommand)
        except MisconfigurationException as error:
            raise RecipeError(one_line(str(error))) from error
        except RuntimeError as error:
            if "loading state_dict" not in str(error):
                raise
            reason = one_line(str(error))[:200]
            raise RecipeError(f"the checkpoint was made by another recipe: {reason}") from error

    def report(self) -> None:
        """Says where what is left of the run lies."""
        folder = run_folder(self.trainer)
        found = [
            name
            for name in ("tokenizer", "checkpoints/last.ckpt", "metrics.csv", "images")
            if (folder / name).exists()
        ]
        rank_zero_info(f"{self.model.step} steps done; {folder} holds {', '.join(found)}")


def build(
    command: str, recipes: Sequence[str], overrides: Sequence[str] = (), callbacks: Sequence[pl.Callback] = ()
) -> TrainingCLI:
    """Everything that a command needs, built but not started.

    Args:
        command: ``fit``, ``validate`` or ``test``.
        recipes: YAML files or names of vistok's recipes, later ones over earlier ones.
        overrides: Options as on the command line: ``["--trainer.max_steps", "10"]``.
        callbacks: Further callbacks.

    Raises:
        WrongOptionError: an unknown option or value, in one line.
        RecipeError: parts that do not fit each other.
    """
    quiet()
    config = read_recipe(recipes)
    given = ["--config", json.dumps(config)] if config else []
    try:
        return TrainingCLI([command, *given, *overrides], callbacks)
    except ArgumentError as error:
        raise WrongOptionError(one_line(str(error))) from error
    except (
        ValueError,
        TypeError,
        MisconfigurationException,
    ) as error:  # from constructors that refuse their arguments
        raise RecipeError(one_line(str(error))) from error


def fit(
    recipes: Sequence[str], overrides: Sequence[str] = (), callbacks: Sequence[pl.Callback] = ()
) -> tuple[TokenizerModule, pl.Trainer]:
    """Trains in this process, as ``vistok fit`` does; returns the module and the Trainer.

    Raises:
        RecipeError: an unknown option or value.
        VistokError: whatever stops the training.
        SystemExit: a second Ctrl-C.
    """
    cli = build("fit", recipes, overrides, callbacks)
    cli.run()
    return cli.model, cli.trainer


def describe(module: TokenizerModule, folder: Path) -> str:
    """One line: what is trained, how large it is, where it goes."""
    tokenizer = module.tokenizer
    trained = sum(weight.numel() for weight in tokenizer.parameters() if weight.requires_grad)
    size = tokenizer.quantizer.codebook_size
    codes = f"{size} codes" if size is not None else "continuous"
    parts = [
        f"{trained / 1e6:.1f} M weights to train",
        f"factor {tokenizer.encoder.factor}",
        f"{codes} of dim {tokenizer.quantizer.dim}",
    ]
    if module.adversarial is not None:
        judge = sum(weight.numel() for weight in module.adversarial.parameters())
        parts.append(f"discriminator of {judge / 1e6:.1f} M from step {module.adversarial.start}")
    return f"{tokenizer.name}: {', '.join(parts)}; writing to {folder}"


def check_checkpoint(path: Path) -> None:
    """Looks into a checkpoint without loading its weights.

    Raises:
        RecipeError: there is none, it is damaged, or it is not vistok's.
    """
    if not path.is_file():
        raise RecipeError(f"there is no checkpoint {path}: runs keep theirs as <run>/checkpoints/last.ckpt")
    try:
        content = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise RecipeError(f"checkpoint {path} cannot be read: it is damaged or no checkpoint") from error
    if not isinstance(content, dict) or STEP_KEY not in content:
        raise RecipeError(f"{path} is not a checkpoint of vistok: it counts no {STEP_KEY}")


def one_line(message: str) -> str:
    """A message of jsonargparse, which may span many lines, as one."""
    return " ".join(part.strip(" -\t") for part in message.splitlines() if part.strip(" -\t"))


def keep_old_metrics(folder: Path) -> None:
    """Renames ``metrics.csv`` of an earlier run in the same folder, which CSVLogger would delete."""
    current = folder / "metrics.csv"
    if current.is_file():
        number = 1
        while (folder / f"metrics.{number}.csv").exists():
            number += 1
        current.rename(folder / f"metrics.{number}.csv")


def quiet() -> None:
    """Silences remarks of Lightning and torch that a user of vistok can do nothing about."""
    for pattern in (
        r".*does not have many workers.*",
        r".*Experiment logs directory .* exists and is not empty.*",
        r".*in eval mode at the start of training.*",
        r"Total length of `list` across ranks is zero.*",
        r"`broadcast_buffers` is deprecated.*",  # its successor is younger than the oldest torch that vistok runs on
        r"It is recommended to use `self.log\(.*sync_dist=True.*",  # means over processes are taken by RunningMeans
        r".*isinstance\(treespec, LeafSpec\).*",
        r".*`log\(.*\)` in your `.*` but .*",
    ):
        warnings.filterwarnings("ignore", pattern)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logger = logging.getLogger(name)
        if _worth_saying not in logger.filters:
            logger.addFilter(_worth_saying)


def _worth_saying(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(
        start in message
        for start in ("Tip:", "TPU available", "Seed set to", "HPU available", "`Trainer.fit` stopped")
    )
