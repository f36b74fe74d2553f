"""Rows of results: CSV both ways, tables for a terminal and for the README."""

from __future__ import annotations

import csv
import platform
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any

NOT_YET_RUN = "not yet run"


@dataclass(frozen=True)
class Row:
    """One provider of one case.

    Args:
        correct: ``yes``, or what is wrong; the measured columns are empty then.
        near_ties: Indices that differ from float64's argmin where its two best are within 1e-5 of |z|^2 + |e|^2.
        note: Why nothing was measured, or under which restriction.
    """

    op: str
    provider: str
    stage: str
    num_latents: int
    num_codes: int
    dim: int
    stages: int
    dtype: str
    device: str
    threads: int
    median_s: float | None = None
    min_s: float | None = None
    repeats: int = 0
    peak_bytes: int | None = None
    correct: str = ""
    near_ties: int = 0
    note: str = ""
    version: str = ""
    torch: str = ""
    vistok: str = ""
    commit: str = ""
    day: str = ""

    @property
    def case(self) -> tuple[str, str, int, int, int, int]:
        """What rows that compete with each other have in common."""
        return (self.op, self.stage, self.num_latents, self.num_codes, self.dim, self.stages)

    @property
    def title(self) -> str:
        """The case in words."""
        codes = f"{self.stages} x {self.num_codes}" if self.stages > 1 else str(self.num_codes)
        return f"{self.op}, {self.stage}: N {self.num_latents}, K {codes}, dim {self.dim}"


def write_rows(rows: Iterable[Row], path: Path) -> None:
    """Writes a CSV file with one line per row."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read_rows(path: Path) -> list[Row]:
    """Reads what ``write_rows`` wrote."""
    convert: dict[str, Callable[[str], Any]] = {
        "int": int,
        "str": str,
        "float | None": _number,
        "int | None": _integer,
    }
    kinds = {field.name: convert[str(field.type)] for field in fields(Row)}
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    return [Row(**{name: kind(line[name]) for name, kind in kinds.items()}) for line in lines]


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned lines, one block per case."""
    blocks = []
    for _, group in groupby(rows, key=lambda row: row.case):
        members = list(group)
        width = max(len(row.provider) for row in members)
        lines = [members[0].title]
        lines += [f"  {row.provider:<{width}}  {_measured(row, members)}" for row in members]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def markdown(rows: Sequence[Row], device: str) -> str:
    """A table for the README, of the rows that were measured on a kind of device; a marker row where there are none."""
    lines = [
        "| op | provider | median | x vistok | extra memory | |",
        "|---|---|---|---|---|---|",
    ]
    measured = [row for row in rows if row.device.startswith(device) and row.median_s is not None]
    if not measured:
        return "\n".join([*lines, f"| {NOT_YET_RUN} | | | | | |"])
    for _, group in groupby(measured, key=lambda row: row.case):
        members = list(group)
        for row in members:
            title = row.title if row is members[0] else ""
            cells = [title, row.provider, duration(row.median_s), _ratio(row, members)]
            lines.append("| " + " | ".join([*cells, size(row.peak_bytes), row.note]) + " |")
    return "\n".join(lines)


def duration(value: float | None) -> str:
    """Seconds in the unit that suits them."""
    if value is None:
        return ""
    return (
        f"{value:.2f} s"
        if value >= 1
        else f"{value * 1e3:.3g} ms"
        if value >= 1e-3
        else f"{value * 1e6:.3g} us"
    )


def size(value: int | None) -> str:
    """Bytes in MiB."""
    return "" if value is None else f"{value / 2**20:,.1f} MiB"


def machine(device: str) -> str:
    """The processor that the benchmarks ran on."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def commit() -> str:
    """The commit that vistok runs from, with a ``+`` where files differ from it; empty outside a clone."""
    folder = Path(__file__).parent
    try:
        name = _git(folder, "rev-parse", "--short", "HEAD")
        return name + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def today() -> str:
    """The date, as ISO has it."""
    return date.today().isoformat()


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def _measured(row: Row, members: Sequence[Row]) -> str:
    if row.median_s is None:
        return row.note if row.correct in ("", "yes") else f"WRONG: {row.correct}"
    parts = [f"{duration(row.median_s):>9}", f"{_ratio(row, members):>8}", f"{size(row.peak_bytes):>14}"]
    ties = f"{row.near_ties} near ties" if row.near_ties else ""
    return "  ".join([*parts, *(text for text in (ties, row.note) if text)])


def _ratio(row: Row, members: Sequence[Row]) -> str:
    own = next((other.median_s for other in members if other.provider == "vistok"), None)
    if row.median_s is None or not own:
        return ""
    return f"{row.median_s / own:.1f} x"


def _number(text: str) -> float | None:
    return float(text) if text else None


def _integer(text: str) -> int | None:
    return int(text) if text else None
