"""``vistok fit``, ``validate`` and ``test``: recipes in, LightningCLI underneath."""

from __future__ import annotations

from collections.abc import Sequence

from vistok.cli import INTERRUPTED, OK, UsageError

_HELP = """usage: vistok {command} --config RECIPE [--config OVERLAY ...] [--SECTION.OPTION VALUE ...]

RECIPE is a YAML file or the name of one of vistok's: {recipes}.
Later files change what earlier ones say: --config vqgan_f16 --config tiny runs in seconds on a CPU.

sections:
  model       tokenizer, losses, adversarial, optimizer, ema_decay, accumulate
  data        train, val, size, batch_size, scale, flip, workers
  trainer     max_steps, devices, precision, default_root_dir (where the run is written), ...
  checkpoint  every, keep; --ckpt_path FILE goes on from one
  stage       start (another run's tokenizer), new and frozen parts
  export, images, usage, progress

  --print_config     prints the whole configuration and stops
  --help full        lists every option
"""


def run(command: str, arguments: Sequence[str]) -> int:
    """Builds everything, runs the command, and says what was left behind."""
    if list(arguments) in (["--help"], ["-h"]):
        from vistok.recipes import recipe_names

        print(_HELP.format(command=command, recipes=", ".join(recipe_names())))
        return OK
    recipes, overrides = split_arguments(arguments)
    from vistok.training.run import WrongOptionError, build

    try:
        cli = build(command, recipes, overrides)
    except WrongOptionError as error:
        raise UsageError(str(error)) from error
    try:
        cli.run()
    except SystemExit:
        # Lightning turns a KeyboardInterrupt into exit status 1
        if not cli.interrupt.interrupted:
            raise
    if command == "fit":
        cli.report()
    return INTERRUPTED if cli.interrupt.interrupted else OK


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates ``--config`` files from the options that change them.

    Raises:
        UsageError: no recipe at all, or ``--config`` without a name.
    """
    recipes: list[str] = []
    overrides: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument in ("--config", "-c"):
            name = next(waiting, None)
            if name is None:
                raise UsageError(f"{argument} needs the name of a recipe")
            recipes.append(name)
        elif argument.startswith("--config="):
            recipes.append(argument.partition("=")[2])
        elif argument == "--help":
            overrides.append("--help")
            if next(waiting, "full") != "full":
                raise UsageError("--help takes nothing but 'full'")
        else:
            overrides.append(argument)
    if not recipes and "--help" not in overrides:
        raise UsageError("a recipe is missing: --config vqgan_f16, or a YAML file of your own")
    return recipes, overrides
