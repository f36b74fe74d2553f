"""Plots in one style, as bytes: SVG without a window system, and PNG."""

from __future__ import annotations

import importlib.util
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vistok.errors import VistokError

Pixels = NDArray[np.uint8]

INK, MUTED, LINE = "#1b1f24", "#6a737d", "#e4e7eb"
BLUE, ORANGE, GREEN, RED = "#2563eb", "#ea7317", "#0f8b6d", "#c2334d"

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


def check_matplotlib(who: str) -> None:
    """Makes sure that plots can be drawn, before the work that leads to them.

    Raises:
        VistokError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise VistokError(f"{who} needs matplotlib, which is not installed: pip install 'vistok[demo]'")


def png(pixels: Pixels) -> bytes:
    """An image (H, W, 3) as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


class Plot:
    """A figure with one pair of axes, in the pages' style; sizes in inches."""

    def __init__(self, width: float = 4.6, height: float = 3.4) -> None:
        self._size = (width, height)

    def __enter__(self) -> tuple[Any, Any]:
        """The figure and its axes."""
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
        """Leaves the style."""
        self._context.__exit__(*error)


def svg(figure: Any) -> bytes:
    """A figure as an SVG file, the same bytes each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return buffer.getvalue()
