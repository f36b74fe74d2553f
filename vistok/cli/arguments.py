"""Arguments that several commands take."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vistok.data import ImageDataset
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
    """``--data``, and what is taken of it."""
    parser.add_argument(
        "--data",
        required=True,
        metavar="D",
        help="a folder, an image, .tar files such as 'train-{00..31}.tar', .parquet or .arrow files, a dataset of "
        "save_to_disk, a list of paths (.txt .csv .tsv .jsonl), photos, photos:held_out or procedural:100",
    )
    parser.add_argument(
        "--fields",
        default="",
        metavar="[NAME=]COLUMN,...",
        help="columns that travel with the tokens, beside the label and caption that are found; image=COLUMN and "
        "key=COLUMN choose those; folders of classes have label and class",
    )
    parser.add_argument(
        "--allow-pipes",
        action="store_true",
        help="let --data 'pipe:COMMAND' run a shell command that prints a tar",
    )
    parser.add_argument(
        "--prefix-keys",
        action="store_true",
        help="begin the keys of images in tars with the tar's name, for tars that number images alike",
    )


def open_data(arguments: argparse.Namespace) -> ImageDataset:
    """The images that ``--data`` names.

    Raises:
        DataError: there are none.
    """
    from vistok.data import Fields, open_images

    fields = Fields.parse(arguments.fields)
    return open_images(
        arguments.data,
        fields=fields,
        allow_pipes=arguments.allow_pipes,
        prefix_keys=arguments.prefix_keys,
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
