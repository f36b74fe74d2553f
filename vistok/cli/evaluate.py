"""``vistok eval``: how good a tokenizer's reconstructions are."""

from __future__ import annotations

import argparse
from pathlib import Path

from vistok.cli import OK
from vistok.cli.arguments import add_data, add_device, add_tokenizer, load_tokenizer, positive


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_tokenizer(parser)
    add_data(parser)
    parser.add_argument("--json", metavar="FILE", help="also write everything, image by image, to this file")
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
    """Evaluates and prints the table."""
    from vistok.data import open_images
    from vistok.evaluation import evaluate

    tokenizer = load_tokenizer(arguments)
    images = open_images(arguments.data)
    perceptual = None if arguments.perceptual == "none" else arguments.perceptual
    result = evaluate(
        tokenizer, images, batch_size=arguments.batch_size, size=arguments.size, perceptual=perceptual
    )
    print(result.table())
    if arguments.json:
        Path(arguments.json).write_text(result.to_json() + "\n", encoding="utf-8")
    return OK
