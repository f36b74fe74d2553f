"""``vistok demo``: everything once, in minutes, on the machine that is there."""

from __future__ import annotations

import argparse

from vistok.cli import OK
from vistok.cli.arguments import seconds


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument(
        "--out", default="runs/demo", metavar="DIR", help="where to write (default: runs/demo)"
    )
    parser.add_argument(
        "--seconds", type=seconds, default=None, metavar="N", help="time to train for (default: the recipe's)"
    )
    parser.add_argument(
        "--photos", default=None, metavar="DIR", help="a folder of your own photographs to train on"
    )


def run(command: str, arguments: argparse.Namespace) -> int:
    """Runs the demo."""
    from vistok import demo

    result = demo.run(out=arguments.out, seconds=arguments.seconds, photos=arguments.photos)
    return int(result) if isinstance(result, int) else OK
