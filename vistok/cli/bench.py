"""``vistok bench``: every op against its peers, on the machine that is there."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vistok.cli import OK, UsageError
from vistok.cli.arguments import positive

if TYPE_CHECKING:
    from vistok.bench import Row


def add_arguments(command: str, parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument(
        "ops",
        nargs="*",
        metavar="OP",
        help="nearest_code, vq_step, ... (default: all; see --list); read or encode by themselves: token shards",
    )
    parser.add_argument("--list", action="store_true", help="list the ops and what they measure")
    parser.add_argument(
        "--out", default="runs/bench", metavar="DIR", help="for bench.csv and bench.png (default: runs/bench)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run, not how fast")
    parser.add_argument("--repeats", type=positive, default=5, metavar="N", help="timed rounds (default: 5)")
    parser.add_argument(
        "--budget",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="after which a slow provider sits out the remaining rounds (default: 120)",
    )
    parser.add_argument(
        "--no-memory", action="store_true", help="time alone; memory runs everything once more"
    )
    parser.add_argument("--markdown", action="store_true", help="print the README's tables at the end")
    parser.add_argument(
        "--read",
        action="append",
        metavar="CSV",
        help="measure nothing, show results from a file; may be repeated",
    )


def run(command: str, arguments: argparse.Namespace) -> int:
    """Measures, or shows what was measured."""
    import torch

    from vistok import bench
    from vistok.bench.report import machine, read_rows
    from vistok.bench.run import Settings

    if {"read", "encode"} & set(arguments.ops):
        if len(arguments.ops) != 1:
            raise UsageError("read and encode are measured by themselves; see vistok bench --help")
        return _bench_reading(arguments) if arguments.ops == ["read"] else _bench_encoding(arguments)
    if arguments.list:
        width = max(map(len, bench.OPS))
        for name, cases in bench.OPS.items():
            print(f"{name:<{width}}  {(cases.__doc__ or '').splitlines()[0]}")
        print(
            f"{'read':<{width}}  Token shards read as training batches, against one .npy an image and webdataset."
        )
        print(
            f"{'encode':<{width}}  Files to token shards, against the bare model and a plain loop; by itself."
        )
        return OK
    if arguments.read:
        rows = [row for path in arguments.read for row in read_rows(Path(path))]
        if not arguments.markdown:
            _show(rows)
    else:
        device = arguments.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        settings = Settings(
            device, arguments.quick, arguments.repeats, arguments.budget, memory=not arguments.no_memory
        )
        print(
            f"{machine(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}\n", flush=True
        )
        rows = bench.run(arguments.ops, settings, Path(arguments.out), _show)
        print(f"{arguments.out}/bench.csv, {arguments.out}/bench.png")
    if arguments.markdown:
        _show_markdown(rows)
    return OK


def _bench_encoding(arguments: argparse.Namespace) -> int:
    from vistok.bench import encoding

    encoding.run(arguments.quick, Path(arguments.out))
    print(f"{arguments.out}/encode.csv")
    return OK


def _bench_reading(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    from vistok.bench import reading

    setting = reading.QUICK if arguments.quick else replace(reading.Setting(), repeats=arguments.repeats)
    rows, out = reading.run(setting), Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    reading.write_csv(rows, out / "read.csv")
    print(
        f"{rows[0].device}, {rows[0].threads} threads, one process\n\n{reading.table(rows)}\n\n{out}/read.csv"
    )
    return OK


def _show(rows: Sequence[Row]) -> None:
    from vistok.bench.report import table

    print(f"{table(rows)}\n", flush=True)


def _show_markdown(rows: Sequence[Row]) -> None:
    from vistok.bench.report import markdown

    for kind, title in (("cpu", "CPU"), ("cuda", "GPU")):
        own = next((row for row in rows if row.device.startswith(kind)), None)
        named = (
            ""
            if own is None
            else f" ({own.device.partition(': ')[2]}, {own.threads} threads, commit {own.commit})"
        )
        print(f"\n{title}{named}\n\n{markdown(rows, kind)}")
