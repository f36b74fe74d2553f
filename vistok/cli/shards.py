"""``vistok encode``, ``decode``, ``verify`` and ``repair``: images to token shards and back."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from vistok.cli import FAILED, OK
from vistok.cli.arguments import (
    add_data,
    add_device,
    add_tokenizer,
    load_tokenizer,
    non_negative,
    open_data,
    positive,
)
from vistok.cli.engines import add_engine, add_speed, batch_size, engine, speed

if TYPE_CHECKING:
    from vistok.data import ImageDataset


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of one of the commands."""
    if command == "verify":
        parser.add_argument("out", metavar="SHARDS", help="directory that `vistok encode` wrote")
        parser.add_argument(
            "--quick", action="store_true", help="compare sizes and records only, without reading the shards"
        )
        parser.add_argument("--json", action="store_true", help="print the report as JSON")
        return
    if command == "repair":
        parser.add_argument("out", metavar="SHARDS", help="directory that `vistok encode` wrote")
        add_tokenizer(parser)
        add_data(parser)
        _add_views(parser)
        add_engine(parser)
        _add_pool(parser)
        add_device(parser)
        return
    add_tokenizer(parser)
    if command == "encode":
        add_data(parser)
        _add_views(parser)
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
        parser.add_argument(
            "--container",
            choices=("arrow", "arrow-packed", "tar"),
            default="arrow",
            help="file format: arrow; arrow-packed, fewest bytes; tar, five times the bytes (default: arrow)",
        )
        parser.add_argument(
            "--latents",
            choices=("float32", "float16", "bfloat16"),
            default="float32",
            help="type of stored latents, of a continuous tokenizer (default: float32)",
        )
        parser.add_argument(
            "--moments",
            action="store_true",
            help="store latents as means and standard deviations to draw from",
        )
        add_engine(parser)
        add_speed(parser)
    else:
        parser.add_argument("--shards", required=True, help="directory that `vistok encode` wrote")
        parser.add_argument("--out", required=True, help="directory to write PNG files into")
        parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    auto = ", or auto to try out which is best" if command == "encode" else ""
    parser.add_argument(
        "--batch-size",
        type=batch_size if command == "encode" else positive,
        default=32,
        metavar="N",
        help=f"images at once{auto} (default: 32)",
    )
    _add_pool(parser)
    add_device(parser)


def _add_pool(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pool",
        type=positive,
        metavar="P",
        help="one of several poolings that the tokenizer offers; that of the shards, once they are made",
    )


def run(command: str, arguments: argparse.Namespace) -> int:
    """Runs one of the commands."""
    if command == "verify":
        return _verify(arguments)
    from vistok import shards

    tokenizer = load_tokenizer(arguments)
    if arguments.pool is not None:
        tokenizer = tokenizer.pooled(arguments.pool)
    if command == "decode":
        written = shards.decode(tokenizer, arguments.shards, arguments.out, batch_size=arguments.batch_size)
        print(written.to_json() if arguments.json else written)
        return OK
    images = _viewed(arguments)
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
        container=arguments.container,
        latents=arguments.latents,
        moments=arguments.moments,
        engine=engine(arguments),
        **speed(arguments),
    )
    print(summary.to_json() if arguments.json else summary)
    return OK


def _add_views(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--views",
        default="none",
        metavar="V",
        help="several samples of each image: none, flip, ten-crop, or random-K for K random crops (default: none)",
    )
    parser.add_argument("--seed", type=non_negative, metavar="N", help="of the random crops (default: 0)")
    parser.add_argument(
        "--buckets",
        metavar="AREA[,MULTIPLE[,RATIO]]",
        help="native shapes: each image in the size nearest its aspect ratio among those of at most AREA pixels, "
        "such as 256x256; sides are multiples of MULTIPLE, at most RATIO (default: 4) to 1",
    )


def _viewed(arguments: argparse.Namespace) -> ImageDataset:
    """The images of ``--data``, in the views and sizes that were asked for."""
    from vistok.data import Buckets, view_names, with_views
    from vistok.errors import DataError

    if arguments.views != "none":
        view_names(arguments.views)  # a mistake is told before a large dataset is listed
    if arguments.seed is not None and not arguments.views.startswith("random-"):
        raise DataError(
            f"--seed means nothing to --views {arguments.views}: leave it out, or give --views random-K"
        )
    buckets = Buckets.parse(arguments.buckets) if arguments.buckets else None
    images = open_data(arguments)
    if buckets is not None:
        images = images.bucketed(buckets)
    return with_views(images, arguments.views, arguments.seed or 0)


def _verify(arguments: argparse.Namespace) -> int:
    from vistok import shards

    report = shards.verify(arguments.out, full=not arguments.quick)
    if arguments.json:
        print(report.to_json())
    else:
        print(report, file=sys.stdout if report.ok else sys.stderr)
    return OK if report.ok else FAILED
