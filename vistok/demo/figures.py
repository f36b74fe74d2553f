"""The report's pictures: plots as SVG, maps as PNG, all of them as bytes."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vistok.demo.curves import Curve, split

Pixels = NDArray[np.uint8]

INK, MUTED, LINE = "#1b1f24", "#6a737d", "#e4e7eb"
BLUE, ORANGE, GREEN, RED = "#2563eb", "#ea7317", "#0f8b6d", "#c2334d"
ERROR_LIMIT = 64

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "path",
    "svg.hashsalt": "vistok",
}


def loss_figure(curves: Mapping[str, Curve]) -> bytes:
    """Every loss of training over steps, as it is before its weight; SVG."""
    names = [name for name in curves if name.startswith("loss/") and name != "loss/total"]
    shown = [*(["loss/total"] if "loss/total" in curves else []), *sorted(names)]
    with _Figure() as (figure, axis):
        for name, colour in zip(shown, itertools.cycle((BLUE, ORANGE, GREEN, RED, MUTED)), strict=False):
            axis.plot(
                *split(curves[name]), label=name[5:], color=colour, lw=2.4 if name == "loss/total" else 1.2
            )
        axis.set(title="Training losses", xlabel="step")
        if all(value > 0 for name in shown for _, value in curves[name]):
            axis.set_yscale("log")
        if shown:
            axis.legend(fontsize=9)
        return _svg(figure)


def quality_figure(curves: Mapping[str, Curve]) -> bytes:
    """Held-out PSNR over steps; SVG."""
    with _Figure() as (figure, axis):
        axis.plot(*split(curves.get("val/psnr", [])), color=GREEN, marker="o", ms=4)
        axis.set(title="Held-out PSNR, dB", xlabel="step")
        return _svg(figure)


def codebook_figure(curves: Mapping[str, Curve]) -> bytes:
    """Usage and perplexity of the codebook over steps; SVG."""
    with _Figure() as (figure, axis):
        axis.plot(*split((x, 100 * y) for x, y in curves.get("codebook/usage", [])), color=ORANGE)
        axis.set(title="Codebook", xlabel="step", ylim=(0, 103))
        axis.set_ylabel("usage, %", color=ORANGE)
        right = axis.twinx()
        right.plot(*split(curves.get("codebook/perplexity", [])), color=BLUE)
        right.set_ylabel("perplexity", color=BLUE)
        right.set_ylim(bottom=0)
        right.grid(False)
        return _svg(figure)


def usage_figure(counts: Sequence[int]) -> bytes:
    """How often each code occurs, most frequent first, beside what equal use would give; SVG."""
    ordered = np.sort(np.asarray(counts))[::-1]
    with _Figure(11.0, 2.9) as (figure, axis):
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
        return _svg(figure)


def downstream_figure(curves: Mapping[str, Curve], unigram: float, entropy: float) -> bytes:
    """Bits per token of the downstream model over steps, with the lines that it is to fall below; SVG."""
    with _Figure(6.0, 4.2) as (figure, axis):
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
        return _svg(figure)


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


def png(pixels: Pixels) -> bytes:
    """An image (H, W, 3) as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _coloured(values: NDArray[Any], name: str) -> Pixels:
    import matplotlib

    colours: Pixels = np.round(matplotlib.colormaps[name](values)[..., :3] * 255).astype(np.uint8)
    return colours


class _Figure:
    """A figure with one pair of axes, in the report's style; sizes in inches."""

    def __init__(self, width: float = 4.6, height: float = 3.4) -> None:
        self._size = (width, height)

    def __enter__(self) -> tuple[Any, Any]:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._context: Any = matplotlib.rc_context(_STYLE)
        self._context.__enter__()
        # no pyplot: it would choose a window system and keep the figure
        figure = Figure(figsize=self._size, layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.subplots()

    def __exit__(self, *error: object) -> None:
        self._context.__exit__(*error)


def _svg(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return buffer.getvalue()
