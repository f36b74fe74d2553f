"""``vistok eval``: how good a tokenizer's reconstructions are."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vistok.cli import OK
from vistok.cli.arguments import add_data, add_device, add_tokenizer, load_tokenizer, open_data, positive
from vistok.cli.output import STDOUT, add_json, writing


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_tokenizer(parser)
    add_data(parser)
    add_json(parser, "everything, image by image,")
    parser.add_argument(
        "--write", action="store_true", help="also store the metrics in the tokenizer's config.json"
    )
    parser.add_argument(
        "--size", type=positive, metavar="PIXELS", help="cut the central square (default: whole images)"
    )
    parser.add_argument(
        "--batch-size", type=positive, default=16, metavar="N", help="images at once (default: 16)"
    )
    parser.add_argument(
        "--perceptual",
        default="efficientnet-lite0",
        metavar="NETWORK",
        help="efficientnet-lite0, lpips, a timm model, or none (default: efficientnet-lite0)",
    )
    add_device(parser)


def run(command: str, arguments: argparse.Namespace) -> int:
    """Evaluates and prints the table; where results cannot be written is found out before."""
    from vistok.evaluation import evaluate

    if arguments.write:
        _check_folder(Path(arguments.tokenizer))
    tokenizer = load_tokenizer(arguments)
    images = open_data(arguments)
    perceptual = None if arguments.perceptual == "none" else arguments.perceptual
    with writing(arguments.json, "--json") if arguments.json else contextlib.nullcontext() as write:
        result = evaluate(
            tokenizer, images, batch_size=arguments.batch_size, size=arguments.size, perceptual=perceptual
        )
        if arguments.json != STDOUT:
            print(result.table())
        if write is not None:
            write(result.to_json() + "\n")
    if arguments.write:
        tokenizer.metrics = merged(tokenizer.metrics, result.records(), data_name(arguments.data))
        tokenizer.save(Path(arguments.tokenizer).resolve())  # a link to it stays a link
    return OK


def merged(
    before: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]], data: str
) -> tuple[dict[str, Any], ...]:
    """Metrics of a tokenizer with new ones added; those of the same name, protocol and data are replaced."""
    new = [{**record, "data": data} for record in records]
    made_anew = {_identity(record) for record in new}
    return (*(dict(old) for old in before if _identity(old) not in made_anew), *new)


def data_name(what: str) -> str:
    """What ``--data`` named, without the folders on this machine that lead to it."""
    return Path(what).name if "/" in what else what


def _identity(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(record.get(field) for field in ("name", "protocol", "data"))


def _check_folder(folder: Path) -> None:
    from vistok.errors import TokenizerError

    if folder.exists() and not os.access(folder.resolve().parent, os.W_OK):
        raise TokenizerError(
            f"{folder} cannot be replaced, its parent folder is read-only: evaluate a copy, or leave out --write"
        )
    if not folder.exists():
        raise TokenizerError(
            f"--write needs a tokenizer in a folder, and there is none at {folder}: save it first"
        )
