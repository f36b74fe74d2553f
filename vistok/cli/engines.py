"""Arguments of ``vistok encode`` and ``vistok repair`` that say how and where shards are made, not what is in them."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from vistok.cli.arguments import non_negative, positive

if TYPE_CHECKING:
    from vistok.shards import Engine

MOST_WORKERS = 8


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Engine, workers, and the form of the report."""
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="who makes the shards (default: local)"
    )
    parser.add_argument(
        "--workers",
        type=non_negative,
        metavar="N",
        help="processes that read images, of each actor with --engine ray (default: half of the cores, at most "
        f"{MOST_WORKERS}; with ray 0)",
    )
    parser.add_argument(
        "--ray-address",
        metavar="A",
        help="of a Ray cluster, such as auto or ray://host:10001 (default: one on this machine, for this run)",
    )
    parser.add_argument(
        "--num-actors",
        type=positive,
        metavar="N",
        help="models at once (default: as many as the cluster's GPUs hold, or its CPUs)",
    )
    parser.add_argument(
        "--gpus-per-actor",
        type=_gpus,
        metavar="G",
        help="share of a GPU for each actor, such as 1 or 0.5 (default: 1 where the tokenizer is on a GPU, else 0)",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def add_speed(parser: argparse.ArgumentParser) -> None:
    """What may change the last bits, what a run may leave out or looks at again, and the slice of a job array."""
    parser.add_argument(
        "--max-error-rate",
        type=_rate,
        default=0.05,
        metavar="R",
        help="share of all images, in [0, 1], that may be skipped before the run ends (default: 0.05)",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read the shards that are there already, and make those again whose hash is not the recorded one",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        help="type of the encoder's weights; quantization is float32 in any case (default: that of the tokenizer)",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the encoder, which takes a minute first"
    )
    parser.add_argument(
        "--shard-index",
        type=non_negative,
        default=0,
        metavar="I",
        help="job of an array: make shards I mod N",
    )
    parser.add_argument(
        "--num-shards",
        type=positive,
        default=1,
        metavar="N",
        help="jobs of the array, which write into the same --out, at once or one by one (default: 1)",
    )


def engine(arguments: argparse.Namespace) -> Engine:
    """The engine that was asked for.

    Raises:
        ShardError: an option of another engine, or Ray is not installed.
    """
    from vistok.errors import ShardError
    from vistok.shards import LocalEngine

    if arguments.engine == "local":
        for option in ("ray_address", "num_actors", "gpus_per_actor"):
            if getattr(arguments, option) is not None:
                raise ShardError(f"--{option.replace('_', '-')} is an option of --engine ray: add that")
        workers = min(MOST_WORKERS, (os.cpu_count() or 1) // 2)
        return LocalEngine(workers if arguments.workers is None else arguments.workers)
    from vistok.shards.engines.ray import RayEngine

    return RayEngine(
        address=arguments.ray_address,
        num_actors=arguments.num_actors,
        gpus_per_actor=arguments.gpus_per_actor,
        workers=arguments.workers or 0,
    )


def speed(arguments: argparse.Namespace) -> dict[str, Any]:
    """What ``add_speed`` declared, as arguments of ``encode``."""
    from vistok.shards import Slice

    return {
        "precision": arguments.precision,
        "compile": arguments.compile,
        "max_error_rate": arguments.max_error_rate,
        "verify": arguments.verify,
        "part": Slice(arguments.shard_index, arguments.num_shards),
    }


def batch_size(text: str) -> int | str:
    """An integer of at least 1, or ``auto``."""
    return text if text == "auto" else positive(text)


def _rate(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share in [0, 1]")
    return number


def _gpus(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 64 or (number > 1 and not number.is_integer()):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a share of a GPU in [0, 1] nor a whole number of them"
        )
    return number
