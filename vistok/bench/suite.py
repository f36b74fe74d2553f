"""All benchmarks by the name of their op."""

from __future__ import annotations

from collections.abc import Callable

from vistok.bench import bits, search, softmax, training
from vistok.bench.case import Case

# op -> its cases, small ones if quick
OPS: dict[str, Callable[[bool], list[Case]]] = {
    "nearest_code": search.cases,
    "vq_step": training.vq_cases,
    "residual": training.residual_cases,
    "lfq": bits.lfq_cases,
    "fsq": bits.fsq_cases,
    "bit_entropy": bits.entropy_cases,
    "ibq": softmax.ibq_cases,
}


def cases(op: str, *, quick: bool = False) -> list[Case]:
    """The cases of an op.

    Raises:
        KeyError: there is no such op.
    """
    return OPS[op](quick)


def find(op: str, number: int, *, quick: bool) -> Case:
    """One case of an op."""
    return cases(op, quick=quick)[number]
