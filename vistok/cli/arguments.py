"""Arguments that several commands take."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vistok.tokenizer import Tokenizer


def positive(text: str) -> int:
    """An integer of at least 1, from the command line."""
    return _integer(text, least=1)


def non_negative(text: str) -> int:
    """An integer of at least 0, from the command line."""
    return _integer(text, least=0)


def seconds(text: str) -> float:
    """A time above 0 that ends, from the command line."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return number


def _integer(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {least}")
    return number


def add_tokenizer(parser: argparse.ArgumentParser) -> None:
    """``--tokenizer``."""
    parser.add_argument("--tokenizer", required=True, metavar="T", help="directory, or Hugging Face Hub id")


def add_data(parser: argparse.ArgumentParser) -> None:
    """``--data``."""
    parser.add_argument(
        "--data",
        required=True,
        metavar="D",
        help="a folder, an image, .tar files such as 'train-{00..31}.tar', photos, photos:held_out or procedural:100",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device``."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")


def load_tokenizer(arguments: argparse.Namespace) -> Tokenizer:
    """The tokenizer that was named, on the device that was named.

    Raises:
        TokenizerError: there is none, or the device is not here.
    """
    import torch

    from vistok.errors import TokenizerError
    from vistok.tokenizer import load

    name = arguments.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = load(arguments.tokenizer)
    try:
        return tokenizer.to(torch.device(name))
    except (RuntimeError, AssertionError) as error:
        raise TokenizerError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
