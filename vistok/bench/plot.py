"""Time and memory against the size of the codebook."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vistok.bench.report import Row


def plot(rows: Sequence[Row], path: Path, op: str = "nearest_code") -> bool:
    """Draws two log-log panels of an op, a line per provider, as PNG; returns whether there was something to draw."""
    import matplotlib.pyplot as plt

    members = [row for row in rows if row.op == op and row.median_s is not None]
    if not members:
        return False
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for name in dict.fromkeys(row.provider for row in members):
        own = sorted((row for row in members if row.provider == name), key=lambda row: row.num_codes)
        values = (
            [row.median_s for row in own],
            [None if row.peak_bytes is None else max(row.peak_bytes, 1) / 2**20 for row in own],
        )
        for panel, heights in zip(panels, values, strict=True):
            points = [
                (row.num_codes, height)
                for row, height in zip(own, heights, strict=True)
                if height is not None
            ]
            if points:
                panel.plot(
                    *zip(*points, strict=True), marker="o", label=name, linewidth=2 if name == "vistok" else 1
                )
    sizes = sorted({(row.num_codes, row.dim) for row in members})
    for panel, title in zip(panels, ("seconds, median", "extra memory, MiB"), strict=True):
        panel.set(xscale="log", yscale="log", title=title, xlabel="codes (dim)")
        ticks: dict[int, list[str]] = {}
        for num_codes, dim in sizes:
            ticks.setdefault(num_codes, []).append(str(dim))
        panel.set_xticks(
            list(ticks), [f"{size}\n({', '.join(dims)})" for size, dims in ticks.items()], minor=False
        )
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.suptitle(f"{op}, N = {members[0].num_latents}, {members[0].device}", fontsize=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return True
