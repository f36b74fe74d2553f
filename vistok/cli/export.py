"""``vistok export``: token shards in the format of other training code."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING, Any

from vistok.cli import OK
from vistok.cli.arguments import non_negative, positive
from vistok.cli.output import STDOUT, add_json, writing

if TYPE_CHECKING:
    from vistok.shards.exports import ExportFormat

# told here too, so that --help needs no torch
FORMATS = ("parquet", "megatron", "nanotron", "llamagen", "mar", "lightningdit", "titok", "litdata", "mds")
_NUMBERING = ("offset", "group_order", "group_stride", "bos", "eos", "boi", "eoi", "vocab_size")
_SETTINGS = (
    *("default_label", "views", "dataset", "image_size", "classes", "logvar", "normalised"),
    *("images_per_file", "samples_per_file", "chunk_bytes", "shard_bytes"),
)


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Declares the arguments; a format refuses those that mean nothing to it."""
    parser.add_argument(
        "--from", dest="shards", required=True, metavar="SHARDS", help="what `vistok encode` wrote"
    )
    parser.add_argument("--to", required=True, choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="directory to make; it appears when it is whole"
    )
    parser.add_argument("--stream", metavar="NAME", help="token stream, where the tokenizer has several")
    parser.add_argument(
        "--partial", action="store_true", help="take the finished shards of an unfinished run"
    )
    add_json(parser, "the summary")
    _add_ids(parser.add_argument_group("ids, which are the index in the codebook unless you say otherwise"))
    _add_settings(parser.add_argument_group("settings of some formats"))


def _add_ids(group: Any) -> None:
    group.add_argument("--offset", type=non_negative, metavar="N", help="id of the first code")
    group.add_argument(
        "--vocab-size", type=positive, metavar="N", help="of the model: decides the type of the tokens"
    )
    for name, place in (
        ("bos", "at the start of a sequence"),
        ("boi", "before the image"),
        ("eoi", "after the image"),
        ("eos", "at the end of a sequence"),
    ):
        group.add_argument(f"--{name}", type=non_negative, metavar="ID", help=f"special token {place}")
    group.add_argument(
        "--group-order",
        choices=("position", "group"),
        help="how several indices a position become one sequence: all of a position together, or all of a group",
    )
    group.add_argument(
        "--group-stride",
        type=non_negative,
        metavar="N",
        help="each group's ids lie N after those of the group before",
    )


def _add_settings(group: Any) -> None:
    group.add_argument("--default-label", type=int, metavar="N", help="class of samples without one")
    group.add_argument(
        "--views",
        choices=("all", "original"),
        help="llamagen, mar, lightningdit: with flips and crops or not",
    )
    group.add_argument("--dataset", metavar="NAME", help="llamagen: NAMESIZE_codes (default: imagenet)")
    group.add_argument(
        "--image-size", type=positive, metavar="PIXELS", help="llamagen: the size in that name"
    )
    group.add_argument(
        "--classes", choices=("label", "key"), help="mar: what names the class folders (default: label)"
    )
    group.add_argument(
        "--logvar", type=float, metavar="X", help="mar: log-variance beside the mean (default: -30, none)"
    )
    group.add_argument(
        "--normalised",
        action="store_true",
        default=None,
        help="mar, lightningdit: keep the tokenizer's shift and scale",
    )
    group.add_argument("--images-per-file", type=positive, metavar="N", help="lightningdit (default: 10000)")
    group.add_argument("--samples-per-file", type=positive, metavar="N", help="parquet (default: 100000)")
    group.add_argument("--chunk-bytes", type=positive, metavar="N", help="litdata (default: 64000000)")
    group.add_argument("--shard-bytes", type=positive, metavar="N", help="mds (default: 67108864)")


def run(command: str, arguments: argparse.Namespace) -> int:
    """Exports, and prints one line."""
    from vistok import shards

    to = chosen_format(arguments)
    with writing(arguments.json, "--json") if arguments.json else contextlib.nullcontext() as write:
        summary = shards.export(
            arguments.shards, to, arguments.out, stream=arguments.stream, partial=arguments.partial
        )
        if arguments.json != STDOUT:
            print(summary)
        for note in summary.notes:
            print(f"vistok: note: {note}", file=sys.stderr)
        if write is not None:
            write(summary.to_json())
    return OK


def chosen_format(arguments: argparse.Namespace) -> ExportFormat:
    """The format that was named, with the settings that were given.

    Raises:
        VistokError: a setting that means nothing to it.
    """
    import dataclasses

    from vistok.errors import VistokError
    from vistok.shards import exports

    kind = exports.FORMATS[arguments.to]
    known = {field.name for field in dataclasses.fields(kind)}
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    numbering = {name: given[name] for name in _NUMBERING if name in given}
    settings = {name: given[name] for name in _SETTINGS if name in given}
    for name in (*(numbering if "tokens" not in known else ()), *settings):
        if name not in known:
            raise VistokError(f"--{name.replace('_', '-')} means nothing to {arguments.to}: leave it out")
    return kind(**settings, **({"tokens": exports.TokenNumbering(**numbering)} if numbering else {}))
