"""``vistok demo``: five stages, each of which is done once however often the demo is started."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vistok.demo.photographs import Sources, check_photographs, copy_photographs
from vistok.demo.state import FILE_NAME as STATE_NAME
from vistok.demo.state import State
from vistok.errors import VistokError
from vistok.recipes import find_recipe
from vistok.report.console import Console
from vistok.report.plots import check_matplotlib
from vistok.report.writing import write_text

SECONDS = 120.0
OUT = "runs/demo"


class DemoInterrupted(KeyboardInterrupt):
    """Ctrl-C; the message says what is kept and how to go on."""


def run(
    out: str | Path = OUT,
    seconds: float | None = None,
    photos: str | Path | None = None,
    recipe: str = "demo",
    progress: bool = True,
) -> dict[str, Any]:
    """Trains a tokenizer, uses it, judges it, and writes a report; started again, it goes on where it stopped.

    Args:
        out: New or empty directory, or one of an earlier demo with the same settings.
        seconds: To train the tokenizer for, 120 if None; the downstream model gets half.
        photos: A folder of at least two photographs of one's own; every fifth is held out.
        recipe: Name or path of the tokenizer's recipe: discrete, one index a position.
        progress: Say what happens.

    Returns:
        What ``summary.json`` holds.

    Raises:
        VistokError: settings that differ from those of the demo in ``out``, a directory or photographs that cannot be
            used, a package that is missing.
        DemoInterrupted: Ctrl-C.
    """
    out, seconds = Path(out), SECONDS if seconds is None else float(seconds)
    if not (math.isfinite(seconds) and seconds > 0):
        raise VistokError(f"--seconds is {seconds:g}: give a number above 0")
    path = find_recipe(recipe)
    _check_packages(photos is None)
    settings = {
        "seconds": seconds,
        "photos": None if photos is None else str(Path(photos).resolve()),
        "recipe": hashlib.sha256(path.read_bytes()).hexdigest()[:16],
    }
    if photos is not None and not Path(photos).is_dir():
        raise VistokError(f"--photos {photos} is not a folder: give one with photographs")
    if photos is not None and not (out / STATE_NAME).exists():
        check_photographs(Path(photos))  # before anything is written that binds the next run to them
    state = State.open(out, settings)
    console = Console(num_stages=5, shown=progress)
    if state.done("report") and all((out / name).is_file() for name in ("report.html", "summary.json")):
        console.say(
            f"This demo is finished: open {out / 'report.html'}\nTo run it again, give another --out or delete {out}."
        )
        return _summary_of(out)
    console.say(f"vistok demo in {out}: about {_estimate(seconds)}. Ctrl-C stops it; run it again to go on.")
    try:
        return _run_stages(state, console, path, seconds, photos)
    except KeyboardInterrupt as stop:
        raise DemoInterrupted(_kept(state)) from stop


def _run_stages(
    state: State, console: Console, recipe: Path, seconds: float, photos: str | Path | None
) -> dict[str, Any]:
    from vistok.demo import stages

    done_before = state.seconds.get("total", 0.0)
    start = time.monotonic()

    def stage(name: str, title: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        console.stage(title)
        if state.done(name) and name != "report":
            console.result("done before")
            return state.stages[name]
        began = time.monotonic()
        try:
            result = work()
        finally:
            now = time.monotonic()
            state.spend(name, now - began)
            state.seconds["total"] = done_before + now - start
            state.save()
        state.finish(name, result)
        return result

    sources = _sources(state, console, photos)
    job = stages.Job(state.folder, recipe, seconds, sources, console)
    stage("train", f"Train a tokenizer for {seconds:g} s, recipe {recipe.name}", lambda: stages.train(job))
    stage("reconstruct", "Reconstruct photographs that it has never seen", lambda: stages.reconstruct(job))
    stage(
        "encode", "Encode all photographs to token shards, verify and decode them", lambda: stages.encode(job)
    )
    stage(
        "learn", f"Train a small transformer on the tokens for {seconds / 2:g} s", lambda: stages.learn(job)
    )
    summary: dict[str, Any] = {}

    def report() -> dict[str, Any]:
        from vistok.demo.report import write_report

        state.seconds["total"] = done_before + time.monotonic() - start
        summary.update(_summarise(state))
        write_report(state.folder, summary, state.stages)
        summary["total_seconds"] = round(done_before + time.monotonic() - start, 2)
        write_text(state.folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        console.result(f"{state.folder / 'report.html'}: open it in a browser")
        return {}

    stage("report", "Write the report", report)
    console.table(_table(summary, state.folder))
    return summary


def _sources(state: State, console: Console, photos: str | Path | None) -> Sources:
    """Where the photographs are; copies one's own before the first stage."""
    if photos is None:
        return Sources()
    if not state.done("photos"):
        import shutil

        folder = state.folder / "photos"
        shutil.rmtree(folder, ignore_errors=True)
        sources, left_out = copy_photographs(Path(photos), folder)
        for name, reason in left_out.items():
            console.result(f"left out {name}: {reason}")
        state.finish("photos", {**asdict(sources), "left_out": left_out})
    known = state.stages["photos"]
    return Sources(known["train"], known["held_out"])


def _summarise(state: State) -> dict[str, Any]:
    found, seconds = state.stages, state.seconds
    samples = found["learn"]["samples"]
    return {
        "held_out_psnr": {p["photo"]: round(p["psnr"], 4) for p in found["reconstruct"]["pictures"]},
        "held_out_psnr_protocol": found["reconstruct"]["protocol"],
        "usage": found["encode"]["usage"],
        "perplexity": found["encode"]["perplexity"],
        "usage_set": found["encode"]["usage_set"],
        "train_seconds": round(seconds["train"], 2),
        "total_seconds": round(seconds["total"], 2),
        "samples": samples,
        "downstream": {k: v for k, v in found["learn"].items() if k != "samples"},
        "tokenizer": "tokenizer",
        "shards": "shards",
        "report": "report.html",
        "settings": state.settings,
    }


def _table(summary: dict[str, Any], out: Path) -> list[tuple[str, str]]:
    down = summary["downstream"]
    rows = [(f"held-out PSNR, {name}", f"{value:.2f} dB") for name, value in summary["held_out_psnr"].items()]
    return [
        *rows,
        ("codebook usage", f"{summary['usage']:.1%}, perplexity {summary['perplexity']:.0f}"),
        (
            "downstream loss",
            f"{down['loss_bits_per_token']:.2f} bits/token (unigram {down['unigram_bits_per_token']:.2f})",
        ),
        (
            "time",
            f"{summary['total_seconds']:.0f} s, {summary['train_seconds']:.0f} s of it training the tokenizer",
        ),
        ("tokenizer", f'vistok.load("{out / "tokenizer"}")'),
        ("report", str(out / "report.html")),
    ]


def _summary_of(out: Path) -> dict[str, Any]:
    path = out / "summary.json"
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VistokError(
            f"{path} cannot be read ({type(error).__name__}): delete {out} and run the demo again"
        ) from error
    return summary


def _kept(state: State) -> str:
    done = [name for name in ("train", "reconstruct", "encode", "learn") if state.done(name)]
    kept = [f"finished stages ({', '.join(done)})"] if done else []
    if "train" not in done and (state.folder / "training" / "checkpoints" / "last.ckpt").is_file():
        kept.append("the training so far, as a checkpoint")
    told = " and ".join(kept) if kept else "nothing yet"
    return f"stopped; kept in {state.folder}: {told}; run the same command again to go on"


def _check_packages(needs_photos: bool) -> None:
    check_matplotlib("the demo")
    if needs_photos and importlib.util.find_spec("skimage") is None:
        raise VistokError("the demo needs scikit-image, which is not installed: pip install 'vistok[demo]'")


def _estimate(seconds: float) -> str:
    total = seconds * 1.5 + 60
    return f"{math.ceil(total / 60)} minutes" if total > 90 else f"{total:.0f} seconds"
