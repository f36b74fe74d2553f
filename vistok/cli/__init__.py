"""The command line: ``vistok COMMAND``, one file per group of commands, nothing heavy imported before one is chosen."""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from vistok.errors import VistokError

__all__ = ["main"]

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

# command -> (module with `add_arguments` and `run`, what it does)
COMMANDS = {
    "demo": ("vistok.cli.demo", "train a small tokenizer here and now and look at what it does"),
    "fit": ("vistok.cli.training", "train a tokenizer from a recipe"),
    "validate": ("vistok.cli.training", "validate a checkpoint of a recipe"),
    "test": ("vistok.cli.training", "the same on the recipe's test images"),
    "encode": ("vistok.cli.shards", "encode images to token shards"),
    "decode": ("vistok.cli.shards", "decode token shards to images"),
    "export": ("vistok.cli.export", "write token shards in the format of other training code"),
    "verify": ("vistok.cli.shards", "check token shards for damage"),
    "repair": ("vistok.cli.shards", "make damaged token shards again"),
    "eval": ("vistok.cli.evaluate", "measure a tokenizer's reconstructions"),
    "try": ("vistok.cli.downstream", "train a small generative model on a tokenizer's tokens"),
    "normalise": ("vistok.cli.normalise", "give latents mean 0 and deviation 1 over a dataset"),
    "bench": ("vistok.cli.bench", "time the ops against their peers"),
    "import": ("vistok.cli.importing", "make a tokenizer from a public checkpoint"),
    "info": ("vistok.cli.info", "tell what a tokenizer is"),
}
# these parse their own arguments
_PASSED_ON = ("fit", "validate", "test")


class UsageError(Exception):
    """Wrong arguments, told in one line."""


class Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        """Raises instead of exiting."""
        raise UsageError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Arguments without the program's name; ``sys.argv`` if None.

    Returns:
        0 if all went well, 1 after an error, 2 after wrong arguments, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        return _run(arguments)
    except SystemExit as stop:  # --help and --version
        return stop.code if isinstance(stop.code, int) else OK if stop.code is None else FAILED
    except UsageError as error:
        return _fail(error, debug, USAGE)
    except (VistokError, OSError) as error:
        return _fail(error, debug, FAILED)
    except KeyboardInterrupt as stop:
        print(f"vistok: {stop}" if str(stop) else "vistok: stopped", file=sys.stderr)
        return INTERRUPTED


def _run(arguments: list[str]) -> int:
    parser = _parser()
    # `vistok fit ...` is parsed by LightningCLI: it must see its arguments untouched
    chosen = parser.parse_args(arguments[:1])
    if chosen.command is None:
        parser.print_help()
        return OK
    name = chosen.command
    if name not in COMMANDS:
        parser.error(f"there is no command {name!r}: choose one of {', '.join(COMMANDS)}")
    module = importlib.import_module(COMMANDS[name][0])
    if name in _PASSED_ON:
        return int(module.run(name, arguments[1:]))
    command = Parser(prog=f"vistok {name}", description=f"{COMMANDS[name][1].capitalize()}.")
    module.add_arguments(name, command)
    return int(module.run(name, command.parse_args(arguments[1:])))


def _parser() -> Parser:
    from vistok import __version__

    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items())
    parser = Parser(
        prog="vistok",
        usage="vistok [--version] [--debug] COMMAND ...",
        description="Visual tokenizers: train them, turn datasets into token shards, plug them into any model.",
        epilog=f"commands:\n{listed}\n\n`vistok COMMAND --help` tells more; --debug shows the traceback of an error.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vistok {__version__}")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    return parser


def _fail(error: BaseException, debug: bool, status: int) -> int:
    if debug:
        traceback.print_exception(error)
    message = " ".join(str(error).split()) or type(error).__name__
    print(f"vistok: error: {message}", file=sys.stderr)
    return status
