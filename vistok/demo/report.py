"""Writes ``report.html``: one file that shows what the demo did, without a network and without scripts."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vistok.demo import figures
from vistok.demo.curves import read_curves, training_curves
from vistok.report import page
from vistok.report.plots import Pixels, png
from vistok.report.writing import write_text

MOST_PICTURES = 6
_ENLARGE = 8


def write_report(out: Path, summary: Mapping[str, Any], stages: Mapping[str, Mapping[str, Any]]) -> Path:
    """Puts together what the stages left in a demo's directory.

    Args:
        out: The directory; ``report.html`` is written there.
        summary: What ``summary.json`` holds.
        stages: Results of the stages ``train``, ``reconstruct``, ``encode`` and ``learn``.

    Raises:
        VistokError: it cannot be written.
    """
    minutes = f"{summary['total_seconds'] / 60:.1f} minutes"
    body = [
        page.cards(_headline(summary)),
        _reconstructions(out, stages["reconstruct"]),
        _training(out, stages["train"]),
        _codebook(stages["encode"]),
        _tokens(out, stages["reconstruct"], len(stages["encode"]["counts"])),
        _downstream(out, stages["learn"]),
        _shards(stages["encode"]),
        _how_to_use(out),
        _reproduction(summary, stages["train"]["recipe"]),
    ]
    subtitle = f"A visual tokenizer trained, used and judged on this machine in {minutes}, from nothing but a few photographs."
    path = out / str(summary["report"])
    write_text(path, page.page("vistok demo", subtitle, body))
    return path


def _headline(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    psnr, down = summary["held_out_psnr"], summary["downstream"]
    return [
        ("mean held-out PSNR", f"{sum(psnr.values()) / len(psnr):.2f} dB"),
        ("of the codebook in use", f"{summary['usage']:.1%}"),
        ("perplexity of the codebook", f"{summary['perplexity']:.0f}"),
        (
            f"bits per token downstream (unigram {down['unigram_bits_per_token']:.2f})",
            f"{down['loss_bits_per_token']:.2f}",
        ),
        ("of tokenizer training", f"{summary['train_seconds']:.0f} s"),
    ]


def _reconstructions(out: Path, found: Mapping[str, Any]) -> str:
    rows = []
    for entry in found["pictures"][:MOST_PICTURES]:
        original, back = (_read(out, entry["photo"], kind) for kind in ("original", "reconstruction"))
        rows.append(
            page.div(
                "row",
                page.picture(png(original), f"{entry['photo']}, original", f"{entry['photo']}, original"),
                page.picture(
                    png(back),
                    f"{entry['photo']}, reconstruction",
                    f"reconstruction, {entry['psnr']:.2f} dB PSNR",
                ),
                page.picture(
                    png(figures.error_map(original, back)),
                    f"{entry['photo']}, error map",
                    "absolute error",
                ),
            )
        )
    left = len(found["pictures"]) - len(rows)
    scale = page.div(
        "scale",
        "<span>error 0</span>",
        page.image(png(figures.error_scale()), "colours of the error maps"),
        f"<span>{figures.ERROR_LIMIT} of 255 or more, mean of the channels</span>",
    )
    more = [f"<p>{left} more in held_out/.</p>"] if left > 0 else []
    intro = "These photographs were held out whole: nothing of them was ever trained on. Left to right: original, reconstruction from tokens, error."
    return page.section("Held-out photographs", intro, *rows, scale, *more)


def _training(out: Path, found: Mapping[str, Any]) -> str:
    curves = training_curves(out / "training")
    plots = page.div(
        "row",
        page.picture(figures.loss_figure(curves), "training losses", kind="plot"),
        page.picture(figures.quality_figure(curves), "held-out PSNR", kind="plot"),
        page.picture(figures.codebook_figure(curves), "codebook usage and perplexity", kind="plot"),
    )
    seconds = found["seconds"]
    intro = (
        f"{found['steps']} steps of {found['batch_size']} random crops in {seconds:.0f} s, {found['steps'] / max(seconds, 1e-9):.1f} steps/s. "
        "PSNR here is of the first two held-out photographs, usage and perplexity are of each window of training steps."
    )
    return page.section("Training", intro, plots)


def _codebook(found: Mapping[str, Any]) -> str:
    figure = figures.usage_figure(found["counts"])
    intro = (
        f"{found['usage']:.1%} of {len(found['counts'])} codes occur, perplexity {found['perplexity']:.0f}, "
        f"counted over {found['usage_set']}."
    )
    return page.section(
        "Codebook usage", intro, page.picture(figure, "occurrences of each code", kind="plot")
    )


def _tokens(out: Path, found: Mapping[str, Any], codebook_size: int) -> str:
    name = found["pictures"][0]["photo"]
    indices = np.asarray(json.loads((out / "held_out" / f"{name}-tokens.json").read_text(encoding="utf-8")))
    original = _read(out, name, "original")
    coloured = figures.token_map(indices, codebook_size, _ENLARGE)
    rows, columns = indices.shape
    intro = f"What a language model would see of {name}: {columns} x {rows} tokens. Equal tokens have equal colours; the colours mean nothing else."
    pair = page.div(
        "row",
        page.picture(png(original), f"{name}, original", "pixels"),
        page.picture(
            png(coloured),
            f"{name}, token map",
            f"{indices.size} tokens, {len(np.unique(indices))} different ones",
        ),
    )
    return page.section("Token map", intro, pair)


def _downstream(out: Path, found: Mapping[str, Any]) -> str:
    unigram, entropy = found["unigram_bits_per_token"], found["unigram_entropy_bits_per_token"]
    curve = figures.downstream_figure(read_curves(out / "downstream.csv", "step"), unigram, entropy)
    samples = [
        page.image((out / path).read_bytes(), f"sample {number}")
        for number, path in enumerate(found["samples"])
    ]
    intro = (
        f"A causal transformer of {found['parameters'] / 1e6:.1f} million weights read {found['train_tiles']} tiles from the shards. "
        f"It needs {found['loss_bits_per_token']:.2f} bits per token where the unigram distribution needs {unigram:.2f}: "
        f"what it gained, it learned from how tokens follow each other. Evaluated on {found['evaluated_on']}. "
        f"The dotted line is the best that any fixed distribution could do, knowing these tokens beforehand."
    )
    left = page.picture(curve, "downstream loss", kind="plot")
    right = f"<figure>{page.div('samples', *samples)}<figcaption>tiles that it drew token by token, decoded</figcaption></figure>"
    return page.section("A downstream model", intro, page.div("split", left, right))


def _shards(found: Mapping[str, Any]) -> str:
    rows = [
        ("tiles", f"{found['num_tiles']:,}"),
        ("tokens", f"{found['num_tokens']:,}"),
        (
            "shards",
            f"{found['num_shards']} in shards/, {found['bytes'] / 1e6:.1f} MB, {found['bytes'] / found['num_tokens']:.1f} bytes a token with keys and metadata",
        ),
        ("verification", found["verified"]),
        ("decoded", f"{found['decoded']:,} tiles, in decoded/"),
    ]
    return page.section("Token shards", "", page.table(rows))


def _how_to_use(out: Path) -> str:
    source = (
        f'import vistok\nfrom vistok import shards\n\ntok = vistok.load("{out / "tokenizer"}")\n'
        "x = tok.preprocess(images)                # PIL images, paths or arrays\n"
        "enc = tok.encode(x)                       # enc.indices (B, N, 1), enc.grid\n"
        "y = tok.decode(enc)                       # (B, 3, H, W) in [-1, 1]\n"
        "f = tok.embed(enc.indices)                # (B, N, D), the input of a language model\n"
        f'tokens = shards.open("{out / "shards"}")    # a dataset for a DataLoader'
    )
    return page.section("Use it", "", page.code(source))


def _reproduction(summary: Mapping[str, Any], recipe: str) -> str:
    import torch

    from vistok import __version__

    settings = summary["settings"]
    command = f"vistok demo --out DIR --seconds {settings['seconds']:g}"
    if settings["photos"] is not None:
        command += f" --photos {settings['photos']}"
    rows = [
        ("recipe", f"{recipe}, sha256 {settings['recipe']}"),
        ("PSNR protocol", summary["held_out_psnr_protocol"]),
        ("vistok", __version__),
        (
            "torch",
            f"{torch.__version__}, threads: {torch.get_num_threads()}, {'CUDA ' + str(torch.version.cuda) if torch.cuda.is_available() else 'CPU'}",
        ),
        ("Python", platform.python_version()),
        ("machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"),
        (
            "time",
            f"{summary['total_seconds']:.0f} s in all, {summary['train_seconds']:.0f} s of it training the tokenizer",
        ),
    ]
    intro = "The number of steps depends on the speed of the machine, and so do the results, a little."
    return page.section("Do it again", intro, page.code(command), page.table(rows))


def _read(out: Path, name: str, kind: str) -> Pixels:
    with Image.open(out / "held_out" / f"{name}-{kind}.png") as image:
        pixels: Pixels = np.asarray(image.convert("RGB"))
    return pixels
