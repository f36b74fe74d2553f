"""``vistok normalise``: latents of mean 0 and standard deviation 1 over a dataset."""

from __future__ import annotations

import argparse
from pathlib import Path

from vistok.cli import OK
from vistok.cli.arguments import add_data, add_device, add_tokenizer, load_tokenizer, open_data, positive


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_tokenizer(parser)
    add_data(parser)
    parser.add_argument(
        "--per",
        choices=("all", "channel", "element"),
        default="channel",
        help="what has a mean and a deviation of its own; element needs images of one size (default: channel)",
    )
    parser.add_argument(
        "--size", type=positive, metavar="PIXELS", help="cut the central square (default: whole images)"
    )
    parser.add_argument(
        "--batch-size", type=positive, default=16, metavar="N", help="images at once (default: 16)"
    )
    parser.add_argument("--out", metavar="DIR", help="where to write (default: in place of the tokenizer)")
    add_device(parser)


def run(command: str, arguments: argparse.Namespace) -> int:
    """Measures, and writes the tokenizer whole or not at all; where it cannot be written is found out before."""
    from vistok.errors import TokenizerError
    from vistok.evaluation import normalise

    target = Path(arguments.out or arguments.tokenizer)
    if arguments.out is None and not target.is_dir():
        raise TokenizerError(
            f"{arguments.tokenizer} is not a folder that can be written again: add --out DIR"
        )
    tokenizer = load_tokenizer(arguments)
    statistics = normalise(
        tokenizer, open_data(arguments), arguments.per, batch_size=arguments.batch_size, size=arguments.size
    )
    tokenizer.save(target.resolve())  # a link to it stays a link
    shift, scale = statistics.shift_and_scale()
    print(
        f"{tokenizer.name}: {len(shift)} means in [{shift.min():.4g}, {shift.max():.4g}], deviations in "
        f"[{1 / scale.max():.4g}, {1 / scale.min():.4g}], of {statistics.num_images} images; written to {target}"
    )
    return OK
