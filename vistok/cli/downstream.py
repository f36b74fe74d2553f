"""``vistok try``: a small generative model on a tokenizer's tokens, by a flag."""

from __future__ import annotations

import argparse
from pathlib import Path

from vistok.cli import OK
from vistok.cli.arguments import add_device, add_tokenizer, load_tokenizer, non_negative, positive, seconds

NAMES = ("ar", "masked", "next-scale", "diffusion", "mixed")


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_tokenizer(parser)
    parser.add_argument(
        "--backbone",
        required=True,
        choices=NAMES,
        help="ar, masked: any codebook; next-scale: several scales; diffusion, mixed: continuous latents",
    )
    parser.add_argument(
        "--data",
        default="photos",
        metavar="D",
        help="images, as of `vistok encode`, or token shards that this tokenizer made (default: the packaged photos)",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="where to write; shards are kept there (default: runs/try/NAME-HASH)"
    )
    parser.add_argument(
        "--seconds", type=seconds, metavar="N", help="time to train for (default: 120, or as the steps need)"
    )
    parser.add_argument(
        "--steps",
        type=positive,
        metavar="N",
        help="steps to train for at most; alone, the same numbers again",
    )
    parser.add_argument(
        "--size",
        type=positive,
        metavar="PIXELS",
        help="side of the images (default: the tokenizer's, or 8 x 8 tokens)",
    )
    parser.add_argument(
        "--samples", type=positive, default=16, metavar="N", help="images to draw (default: 16)"
    )
    parser.add_argument(
        "--seed", type=non_negative, default=0, metavar="N", help="of everything drawn (default: 0)"
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON, and nothing else")
    add_device(parser)


def run(command: str, arguments: argparse.Namespace) -> int:
    """Trains, draws, and writes the page."""
    from vistok import downstream
    from vistok.downstream.report import write_report
    from vistok.downstream.run import SECONDS
    from vistok.report.console import Console
    from vistok.report.plots import check_matplotlib

    check_matplotlib("the page of `vistok try`")
    tokenizer = load_tokenizer(arguments)
    spec = tokenizer.spec
    downstream.backbone_for(spec, arguments.backbone)
    out = Path(arguments.out or Path("runs", "try", f"{spec.name}-{spec.weights_hash[:8]}"))
    limit = SECONDS if arguments.seconds is None and arguments.steps is None else arguments.seconds
    result = downstream.run(
        tokenizer,
        arguments.data,
        arguments.backbone,
        seconds=limit,
        steps=arguments.steps,
        seed=arguments.seed,
        size=arguments.size,
        num_samples=arguments.samples,
        out=out,
        progress=not arguments.json,
    )
    path = write_report(result, out / arguments.backbone)
    if arguments.json:
        print(result.to_json())
    else:
        Console(0).table([*result.rows(), ("page", str(path))])
    return OK
