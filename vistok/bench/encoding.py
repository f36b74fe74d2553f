"""``vistok bench encode``: how much of the model's own speed is left when a dataset is encoded, and what a plain loop leaves."""

from __future__ import annotations

import contextlib
import csv
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vistok import shards
from vistok.bench.report import commit, machine, today
from vistok.data import ImageFolder, Photos
from vistok.errors import VistokError
from vistok.freed_memory import keeping_freed_memory
from vistok.shards.job import evaluating
from vistok.shards.precision import Precision, in_precision
from vistok.tokenizer import Tokenizer
from vistok.tokenizer.saving import exported_classes
from vistok.training.recipe import read_recipe

WORKERS = 1

Way = tuple[str, Precision]
"""Provider and precision."""


@dataclass(frozen=True)
class Case:
    """A tokenizer and images for it.

    Args:
        recipe: Whose tokenizer is taken, with random weights.
        size: Side of the images in pixels.
        num: How many there are.
        rounds: Parts that they are cut into; in each part every way of encoding has its turn, so that all see the same
            noise of the machine.
        batch_size: Of all but the plain loop.
        precisions: Each is measured with vistok and bare.
        plain: Whether the plain loop takes part.
    """

    recipe: str
    size: int
    num: int
    rounds: int
    batch_size: int
    precisions: tuple[Precision, ...]
    plain: bool


@dataclass(frozen=True)
class Row:
    """One way of encoding the images of a case.

    Args:
        provider: ``plain loop``; ``bare model``, batches that wait in memory; or ``vistok``, files to shards.
        seconds: Of all rounds.
        images_per_second: Over all rounds.
        of_plain: Median over the rounds of its speed over the plain loop's, 0 without one.
        of_bare: The same over the bare model's in the same precision and batch size.
        outside: Share of the time in which the model did not run; of vistok only.
        load: Load average of the machine at the end, of which these measurements are a part.
    """

    recipe: str
    size: int
    provider: str
    precision: str
    batch_size: int
    images: int
    seconds: float
    images_per_second: float
    of_plain: float
    of_bare: float
    outside: float
    load: float
    device: str
    threads: int
    torch: str
    commit: str
    day: str


def cases(quick: bool) -> list[Case]:
    """The two cases, small ones if quick."""
    wide: tuple[Precision, ...] = ("bfloat16", "float32")
    return [
        Case("llamagen_vq16", 256, 8 if quick else 512, 2 if quick else 16, 4, wide, plain=True),
        Case("demo", 64, 500 if quick else 20_000, 1, 32, ("float32",), plain=False),
    ]


def run(
    quick: bool = False,
    out: Path | None = None,
    tell: Callable[[str], None] = print,
    chosen: Sequence[Case] | None = None,
) -> list[Row]:
    """Measures the cases, prints a table of each, and writes ``encode.csv``."""
    rows: list[Row] = []
    for case in cases(quick) if chosen is None else chosen:
        with tempfile.TemporaryDirectory(prefix="vistok-bench-") as folder:
            rows += run_case(case, Path(folder))
        tell(table([row for row in rows if row.recipe == case.recipe]))
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            with (out / "encode.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, [field.name for field in fields(Row)])
                writer.writeheader()
                writer.writerows(asdict(row) for row in rows)
    return rows


def run_case(case: Case, folder: Path) -> list[Row]:
    """The rows of one case."""
    parts = list(_write_tiles(case, folder))
    ways: list[Way] = [("plain loop", "float32")] if case.plain else []
    for precision in case.precisions:
        ways += [("vistok", precision), ("bare model", precision)]
    found: dict[Way, list[tuple[float, float]]] = {way: [] for way in ways}
    with contextlib.ExitStack() as stack:
        # the plain loop has a process of its own, since how vistok keeps memory would change what a script meets
        script = stack.enter_context(_process(case, as_command=False)) if case.plain else None
        command = stack.enter_context(_process(case, as_command=True))
        for number, part in enumerate(parts):
            # every other round the other way round: nobody always runs just after the same neighbour
            for way in ways[:: -1 if number % 2 else 1]:
                process = script if script is not None and way[0] == "plain loop" else command
                found[way].append(process.submit(_encode, way, part, folder / "out").result())
                shutil.rmtree(folder / "out", ignore_errors=True)
    return [_row(case, way, found) for way in ways]


def _process(case: Case, as_command: bool) -> ProcessPoolExecutor:
    """A process that holds the tokenizer of a case, set up as a command of vistok is or as a script finds itself."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, _set_up, (case, as_command))


_here: tuple[Case, Tokenizer]
"""What a process of ``_process`` holds."""

_until_the_end = contextlib.ExitStack()


def _set_up(case: Case, as_command: bool) -> None:
    global _here
    if as_command:
        _until_the_end.enter_context(keeping_freed_memory())
    _here = case, recipe_tokenizer(case.recipe)
    _warm_up(_here[1], case)


def _encode(way: Way, part: Path, out: Path) -> tuple[float, float]:
    """Encodes a part in one way; the seconds that it took, and those of them outside the model where known."""
    (case, tokenizer), (provider, precision), images = _here, way, ImageFolder(part)
    if provider == "plain loop":
        return _plain_loop(tokenizer, images, out), 0.0
    if provider == "bare model":
        return _bare(_in_precision(precision), case.batch_size, images), 0.0
    return _vistok(tokenizer, case, precision, images, out)


@cache
def _in_precision(precision: Precision) -> Tokenizer:
    return in_precision(_here[1], precision)


def recipe_tokenizer(recipe: str) -> Tokenizer:
    """The tokenizer of a recipe with random weights, the same each time."""
    torch.manual_seed(0)
    built = _build(read_recipe([recipe])["model"]["tokenizer"])
    if not isinstance(built, Tokenizer):
        raise VistokError(f"recipe {recipe} has no tokenizer")
    return built.eval()


def table(rows: Sequence[Row]) -> str:
    """The rows of one case for a terminal."""
    first = rows[0]
    lines = [
        f"{first.recipe}, {first.images} photo tiles of {first.size} px "
        f"({first.device}, {first.threads} threads, load {first.load:.1f})",
        f"  {'':<11} {'precision':<9} {'batch':>5} {'images/s':>9} {'of plain':>9} {'of bare':>8} {'outside model':>14}",
    ]
    for row in rows:
        plain = f"{row.of_plain:.2f} x" if row.of_plain else ""
        bare = f"{row.of_bare:.1%}" if row.of_bare else ""
        outside = f"{row.outside:.1%}" if row.provider == "vistok" else ""
        lines.append(
            f"  {row.provider:<11} {row.precision:<9} {row.batch_size:>5} {row.images_per_second:>9.2f} "
            f"{plain:>9} {bare:>8} {outside:>14}"
        )
    return "\n".join(lines)


def _build(node: Any) -> Any:
    """Parts of a recipe from vistok's own classes."""
    if not isinstance(node, dict):
        return node
    if "class_path" not in node:
        return {key: _build(value) for key, value in node.items()}
    arguments = {key: _build(value) for key, value in (node.get("init_args") or {}).items()}
    return exported_classes()[node["class_path"].rpartition(".")[2]](**arguments)


def _write_tiles(case: Case, folder: Path) -> Iterator[Path]:
    """JPEG files of tiles at evenly spread places of the packaged photographs, in as many folders as there are rounds."""
    photos = Photos("all")
    sources = [image for image in map(photos.read, range(len(photos))) if min(image.size) >= case.size]
    golden = (5**0.5 - 1) / 2
    for part in range(case.rounds):
        target = folder / f"part-{part:02d}"
        target.mkdir()
        for number in range(part, case.num, case.rounds):
            source = sources[number % len(sources)]
            left = int(number * golden % 1 * (source.width - case.size + 1))
            top = int(number * golden**2 % 1 * (source.height - case.size + 1))
            tile = source.crop((left, top, left + case.size, top + case.size))
            tile.save(target / f"tile_{number:06d}.jpg", quality=90)
        yield target


def _warm_up(tokenizer: Tokenizer, case: Case) -> None:
    for precision in case.precisions:
        for batch in (1, case.batch_size):
            in_precision(tokenizer, precision).encode(torch.zeros(batch, 3, case.size, case.size))


def _plain_loop(tokenizer: Tokenizer, images: ImageFolder, out: Path) -> float:
    """What a script does: one image at a time, one file each."""
    out.mkdir()
    images = images.fitted_to(tokenizer.spec)
    start = time.perf_counter()
    with torch.inference_mode():
        for number in range(len(images)):
            item = images[number]
            indices = tokenizer.encode(item["image"][None]).indices
            assert indices is not None
            np.save(out / f"{Path(item['key']).stem}.npy", indices[0].numpy())
    return time.perf_counter() - start


def _bare(tokenizer: Tokenizer, batch_size: int, images: ImageFolder) -> float:
    """The model alone: batches are in memory before it starts, and nothing is done with the tokens."""
    images = images.fitted_to(tokenizer.spec)
    seconds, done = 0.0, 0
    with evaluating(tokenizer):
        while done < len(images):
            stop = min(len(images), done + batch_size)
            pixels = torch.stack([images[number]["image"] for number in range(done, stop)])
            start = time.perf_counter()
            tokenizer.encode(pixels)
            seconds += time.perf_counter() - start
            done = stop
    return seconds


def _vistok(
    tokenizer: Tokenizer, case: Case, precision: Precision, images: ImageFolder, out: Path
) -> tuple[float, float]:
    summary = shards.encode(
        tokenizer,
        images,
        out,
        batch_size=case.batch_size,
        workers=WORKERS,
        precision=precision,
        progress=False,
    )
    return summary.seconds, summary.seconds * (1 - summary.model_share)


def _row(case: Case, way: Way, found: dict[Way, list[tuple[float, float]]]) -> Row:
    provider, precision = way
    seconds = sum(taken for taken, _ in found[way])
    return Row(
        recipe=case.recipe,
        size=case.size,
        provider=provider,
        precision=precision,
        batch_size=1 if provider == "plain loop" else case.batch_size,
        images=case.num,
        seconds=seconds,
        images_per_second=case.num / seconds,
        of_plain=_speed_over(found, way, ("plain loop", "float32")),
        of_bare=_speed_over(found, way, ("bare model", precision)) if provider == "vistok" else 0.0,
        outside=sum(outside for _, outside in found[way]) / seconds,
        load=os.getloadavg()[0],
        device=machine("cpu"),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        commit=commit(),
        day=today(),
    )


def _speed_over(found: dict[Way, list[tuple[float, float]]], way: Way, other: Way) -> float:
    if other not in found or way == other:
        return 0.0
    return statistics.median(
        theirs / own for (own, _), (theirs, _) in zip(found[way], found[other], strict=True)
    )
