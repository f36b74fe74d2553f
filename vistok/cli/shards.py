"""``vistok encode``, ``decode``, ``verify`` and ``repair``: images to token shards and back."""

from __future__ import annotations

import argparse
import sys

from vistok.cli import FAILED, OK
from vistok.cli.arguments import add_data, add_device, add_tokenizer, load_tokenizer, positive
from vistok.cli.engines import add_engine, add_speed, batch_size, engine, speed


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of one of the commands."""
    if command == "verify":
        parser.add_argument("out", metavar="SHARDS", help="directory that `vistok encode` wrote")
        parser.add_argument(
            "--quick", action="store_true", help="compare sizes and records only, without reading the shards"
        )
        return
    if command == "repair":
        parser.add_argument("out", metavar="SHARDS", help="directory that `vistok encode` wrote")
        add_tokenizer(parser)
        add_data(parser)
        add_engine(parser)
        add_device(parser)
        return
    add_tokenizer(parser)
    if command == "encode":
        add_data(parser)
        parser.add_argument("--out", required=True, help="directory to write; an unfinished one is finished")
        parser.add_argument(
            "--shard-size", type=positive, default=1000, metavar="N", help="images of a shard (default: 1000)"
        )
        parser.add_argument(
            "--on-error",
            choices=("raise", "skip", "quarantine"),
            default="raise",
            help="what happens to an image that cannot be encoded (default: raise)",
        )
        add_engine(parser)
        add_speed(parser)
    else:
        parser.add_argument("--shards", required=True, help="directory that `vistok encode` wrote")
        parser.add_argument("--out", required=True, help="directory to write PNG files into")
    auto = ", or auto to try out which is best" if command == "encode" else ""
    parser.add_argument(
        "--batch-size",
        type=batch_size if command == "encode" else positive,
        default=32,
        metavar="N",
        help=f"images at once{auto} (default: 32)",
    )
    add_device(parser)


def run(command: str, arguments: argparse.Namespace) -> int:
    """Runs one of the commands."""
    if command == "verify":
        return _verify(arguments)
    from vistok import shards

    tokenizer = load_tokenizer(arguments)
    if command == "decode":
        print(shards.decode(tokenizer, arguments.shards, arguments.out, batch_size=arguments.batch_size))
        return OK
    from vistok.data import open_images

    images = open_images(arguments.data)
    if command == "repair":
        report = shards.repair(tokenizer, images, arguments.out, engine=engine(arguments))
        print(report.to_json() if arguments.json else report)
        return OK
    summary = shards.encode(
        tokenizer,
        images,
        arguments.out,
        batch_size=arguments.batch_size,
        shard_size=arguments.shard_size,
        on_error=arguments.on_error,
        engine=engine(arguments),
        **speed(arguments),
    )
    print(summary.to_json() if arguments.json else summary)
    return OK


def _verify(arguments: argparse.Namespace) -> int:
    from vistok import shards

    report = shards.verify(arguments.out, full=not arguments.quick)
    print(report, file=sys.stdout if report.ok else sys.stderr)
    return OK if report.ok else FAILED
