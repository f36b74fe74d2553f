"""From recipes to a running Trainer: LightningCLI, told where things are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning_utilities.core.rank_zero import rank_zero_info

from vistok.errors import RecipeError
from vistok.training.checks import check_checkpoint, check_devices
from vistok.training.data import ImageData
from vistok.training.folder import RunFolder
from vistok.training.health import CodebookWatchdog
from vistok.training.images import ImageLog
from vistok.training.module import TokenizerModule
from vistok.training.progress import LiveBar
from vistok.training.provenance import provenance_of_recipe
from vistok.training.quiet import quiet
from vistok.training.recipe import check_trainer, read_recipe
from vistok.training.saving import Checkpoint, SaveTokenizer, StopOnCtrlC, is_dry_run, run_folder
from vistok.training.stage import Stage
from vistok.training.usage import UsageMonitor

COMMANDS = ("fit", "validate", "test")


class WrongOptionError(RecipeError):
    """An option that does not exist, or a value that it does not take."""


class TrainingCLI(LightningCLI):
    """LightningCLI with vistok's module, data and callbacks; ``run`` starts what the constructor has only built.

    Every callback has a section of its own in a recipe: ``stage``, ``progress``, ``usage``, ``watchdog``, ``images``,
    ``checkpoint``, ``export``.
    """

    def __init__(
        self, args: Sequence[str], callbacks: Sequence[pl.Callback] = (), recipes: Sequence[str] = ()
    ) -> None:
        self.interrupt = StopOnCtrlC()
        self.recipes = list(recipes)
        args = list(args)
        super().__init__(
            TokenizerModule,
            ImageData,
            # only training says what a run folder is: validation must not overwrite it
            save_config_callback=SaveConfigCallback if args[:1] == ["fit"] else None,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"callbacks": [self.interrupt, *callbacks], "enable_model_summary": False},
            seed_everything_default=0,
            parser_kwargs={name: {"exit_on_error": False} for name in COMMANDS} | {"exit_on_error": False},
            args=args,
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
            ("stage", Stage),
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
        """Chooses and checks the checkpoint before anything is built; it holds no options to merge."""
        command = self.config.subcommand
        assert command is not None
        options = self.config[command]
        if not options.get("ckpt_path") and command != "fit":
            last = root_folder(options.trainer) / "checkpoints" / "last.ckpt"
            if not last.is_file():
                raise WrongOptionError(
                    f"vistok {command} needs trained weights and there is no {last}: add --ckpt_path FILE"
                )
            options.ckpt_path = str(last)
        if options.get("ckpt_path"):
            check_checkpoint(Path(options.ckpt_path))

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
        """Builds the Trainer, with a CSV log of training in the run's folder unless the recipe names loggers.

        Raises:
            RecipeError: data or devices that cannot serve the command.
            DataError: no images.
        """
        assert self.subcommand is not None
        trainer = self._get(self.config_init, "trainer")
        folder = root_folder(trainer)
        self.datamodule.check(self.subcommand, self.model.tokenizer)
        kwargs.setdefault("default_root_dir", str(folder))
        if trainer.get("logger") in (None, True):
            fits = self.subcommand == "fit"
            kwargs.setdefault("logger", CSVLogger(str(folder), name="", version="") if fits else False)
        built = super().instantiate_trainer(**kwargs)
        check_devices(built)
        if self.subcommand == "fit":
            self.datamodule.check_shares(built.num_devices * built.num_nodes)
            resumed = bool(self.config[self.subcommand].get("ckpt_path"))
            for callback in built.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, Stage):
                    callback.begin(self.model.tokenizer, resumed)
        config = self.config[self.subcommand].as_dict()
        self.model.provenance = provenance_of_recipe(config, self.recipes)
        return built

    def _run_subcommand(self, subcommand: str) -> None:
        """Waits for ``run``: who builds the command line wants to hold it when something happens."""

    def run(self) -> None:
        """Runs the command that was asked for.

        A fit that fails before its first step leaves no folder behind that it has made.

        Raises:
            RecipeError: a folder that cannot be written, a checkpoint of another model.
        """
        assert self.subcommand is not None
        folder = RunFolder(run_folder(self.trainer))
        writes = self.subcommand == "fit" and self.trainer.is_global_zero and not is_dry_run(self.trainer)
        if writes:
            folder.claim()
        rank_zero_info(describe(self.model, folder.path if self.subcommand == "fit" else None))
        try:
            self._run_explained(self.subcommand)
        except BaseException:
            if writes and self.model.step == 0:
                folder.release()
            raise

    def _run_explained(self, command: str) -> None:
        try:
            super()._run_subcommand(command)
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
        return TrainingCLI([command, *given, *overrides], callbacks, recipes)
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


def describe(module: TokenizerModule, folder: Path | None) -> str:
    """One line: what is trained, how large it is, where it goes if anywhere."""
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
    where = f"; writing to {folder}" if folder is not None else ""
    return f"{tokenizer.name}: {', '.join(parts)}{where}"


def root_folder(trainer: Any) -> Path:
    """Where a run writes, from the ``trainer`` section of its configuration."""
    return Path(trainer.get("default_root_dir") or "runs/default")


def one_line(message: str) -> str:
    """A message of jsonargparse, which may span many lines, as one."""
    return " ".join(part.strip(" -\t") for part in message.splitlines() if part.strip(" -\t"))
