"""The report's pictures: plots as SVG, maps as PNG, all of them as bytes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vistok.demo.curves import Curve, split
from vistok.report.plots import BLUE, GREEN, MUTED, ORANGE, RED, Pixels, Plot, svg

ERROR_LIMIT = 64


def loss_figure(curves: Mapping[str, Curve]) -> bytes:
    """Every loss of training over steps, as it is before its weight; SVG."""
    names = [name for name in curves if name.startswith("loss/") and name != "loss/total"]
    shown = [*(["loss/total"] if "loss/total" in curves else []), *sorted(names)]
    with Plot() as (figure, axis):
        for name, colour in zip(shown, itertools.cycle((BLUE, ORANGE, GREEN, RED, MUTED)), strict=False):
            axis.plot(
                *split(curves[name]), label=name[5:], color=colour, lw=2.4 if name == "loss/total" else 1.2
            )
        axis.set(title="Training losses", xlabel="step")
        if all(value > 0 for name in shown for _, value in curves[name]):
            axis.set_yscale("log")
        if shown:
            axis.legend(fontsize=9)
        return svg(figure)


def quality_figure(curves: Mapping[str, Curve]) -> bytes:
    """Held-out PSNR over steps; SVG."""
    with Plot() as (figure, axis):
        axis.plot(*split(curves.get("val/psnr", [])), color=GREEN, marker="o", ms=4)
        axis.set(title="Held-out PSNR, dB", xlabel="step")
        return svg(figure)


def codebook_figure(curves: Mapping[str, Curve]) -> bytes:
    """Usage and perplexity of the codebook over steps; SVG."""
    with Plot() as (figure, axis):
        axis.plot(*split((x, 100 * y) for x, y in curves.get("codebook/usage", [])), color=ORANGE)
        axis.set(title="Codebook", xlabel="step", ylim=(0, 103))
        axis.set_ylabel("usage, %", color=ORANGE)
        right = axis.twinx()
        right.plot(*split(curves.get("codebook/perplexity", [])), color=BLUE)
        right.set_ylabel("perplexity", color=BLUE)
        right.set_ylim(bottom=0)
        right.grid(False)
        return svg(figure)


def usage_figure(counts: Sequence[int]) -> bytes:
    """How often each code occurs, most frequent first, beside what equal use would give; SVG."""
    ordered = np.sort(np.asarray(counts))[::-1]
    with Plot(11.0, 2.9) as (figure, axis):
        axis.fill_between(np.arange(len(ordered)), ordered, step="mid", color=BLUE, alpha=0.85, lw=0)
        axis.axhline(ordered.mean(), color=ORANGE, lw=1.5, ls="--", label=f"equal use, {ordered.mean():.1f}")
        used = int((ordered > 0).sum())
        if used < len(ordered):
            axis.axvspan(
                used, len(ordered), color=RED, alpha=0.12, lw=0, label=f"never used: {len(ordered) - used}"
            )
        axis.set(
            xlabel="codes, most frequent first", ylabel="occurrences", xlim=(0, len(ordered)), ylim=(0, None)
        )
        axis.legend(loc="upper right")
        return svg(figure)


def downstream_figure(curves: Mapping[str, Curve], unigram: float, entropy: float) -> bytes:
    """Bits per token of the downstream model over steps, with the lines that it is to fall below; SVG."""
    with Plot(6.0, 4.2) as (figure, axis):
        axis.plot(
            *split(curves.get("train_bits", [])), color=BLUE, marker="o", ms=3.5, label="training tiles"
        )
        axis.plot(
            *split(curves.get("held_out_bits", [])), color=GREEN, marker="o", ms=3.5, label="held-out tiles"
        )
        axis.axhline(unigram, color=RED, lw=1.5, ls="--", label=f"unigram on held-out tiles, {unigram:.2f}")
        told = f"entropy of the held-out tokens, {entropy:.2f}"
        axis.axhline(entropy, color=RED, lw=1.2, ls=":", label=told)
        axis.set(xlabel="step", ylabel="bits per token")
        axis.legend(fontsize=8)
        return svg(figure)


def error_map(original: Pixels, reconstruction: Pixels) -> Pixels:
    """Absolute error, mean over channels, from black (0) to light yellow (64 of 255 and more): (H, W, 3) uint8."""
    error = np.abs(original.astype(np.int16) - reconstruction.astype(np.int16)).mean(axis=2)
    return _coloured(np.clip(error / ERROR_LIMIT, 0, 1), "magma")


def error_scale() -> Pixels:
    """The colours of ``error_map`` from left to right: (12, 256, 3) uint8."""
    return _coloured(np.tile(np.linspace(0, 1, 256), (12, 1)), "magma")


def token_map(indices: NDArray[Any], codebook_size: int, enlarge: int) -> Pixels:
    """A colour for each index, unlike those of its neighbours: (h, w) -> (h * enlarge, w * enlarge, 3) uint8."""
    # a fixed permutation, since neighbouring numbers mean nothing in a learned codebook
    order = np.random.default_rng(0).permutation(codebook_size)
    colours = _coloured(order[np.asarray(indices, dtype=np.int64)] / max(codebook_size - 1, 1), "turbo")
    return np.kron(colours, np.ones((enlarge, enlarge, 1), dtype=np.uint8))


def _coloured(values: NDArray[Any], name: str) -> Pixels:
    import matplotlib

    colours: Pixels = np.round(matplotlib.colormaps[name](values)[..., :3] * 255).astype(np.uint8)
    return colours
