"""Benchmarks: every op against its peers, correctness first, then time and peak memory, on the machine that is there.

``vistok bench`` runs them. ``case.py`` says what a benchmark is, ``suite.py`` lists them, ``measure.py`` takes time and
memory, ``report.py`` writes tables. Nothing here is imported by the rest of vistok.
"""

from vistok.bench.case import Case, Inputs, Provider, Shape
from vistok.bench.report import Row, read_rows
from vistok.bench.run import run
from vistok.bench.suite import OPS, cases

__all__ = ["OPS", "Case", "Inputs", "Provider", "Row", "Shape", "cases", "read_rows", "run"]
