"""Reads the numbers that training left in CSV files."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

Curve = list[tuple[float, float]]


def training_curves(folder: Path) -> dict[str, Curve]:
    """Every metric of a training run as (step, value) pairs, from all the logs that an interrupted run has left.

    Where a resumed run repeats steps, its values count.
    """
    older = sorted(folder.glob("metrics.*.csv"), key=lambda path: int(path.name.split(".")[1]))
    found: dict[str, dict[float, float]] = {}
    for path in [*older, folder / "metrics.csv"]:
        for name, curve in read_curves(path, "step").items():
            found.setdefault(name, {}).update(curve)
    return {name: sorted(values.items()) for name, values in found.items()}


def read_curves(path: Path, x: str) -> dict[str, Curve]:
    """The columns of a CSV file over one of them; empty cells are left out. Empty if there is no such file."""
    if not path.is_file():
        return {}
    found: dict[str, Curve] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name, cell in row.items():
                if name and name != x and cell and row.get(x):
                    found.setdefault(name, []).append((float(row[x]), float(cell)))
    return found


def split(curve: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Pairs to x and y."""
    pairs = list(curve)
    return [x for x, _ in pairs], [y for _, y in pairs]
