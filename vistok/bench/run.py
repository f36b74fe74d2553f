"""Runs benchmarks: results are checked before anything is timed, and what is wrong is not timed at all."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vistok.bench.case import Case, Inputs, Provider, in_chunks
from vistok.bench.measure import free_bytes, peak_bytes, peak_bytes_in_a_fresh_process, seconds
from vistok.bench.report import Row, commit, machine, today, write_rows
from vistok.bench.suite import OPS
from vistok.errors import VistokError


@dataclass(frozen=True)
class Settings:
    """How much to measure.

    Args:
        device: ``cpu`` or ``cuda``.
        quick: Small sizes.
        repeats: Timed rounds; in each, every provider runs once, so that all see the same noise.
        budget: Seconds after which a provider sits out the rounds that are left; it runs at least once.
        memory: Whether to measure memory, which on a CPU runs every provider again in a process of its own.
    """

    device: str = "cpu"
    quick: bool = False
    repeats: int = 5
    budget: float = 120.0
    memory: bool = True


def run(
    ops: Sequence[str] = (),
    settings: Settings = Settings(),
    out: Path | None = None,
    tell: Callable[[Sequence[Row]], None] = lambda rows: None,
) -> list[Row]:
    """Measures the cases of some ops.

    Args:
        ops: Names of ``OPS``; all if empty.
        settings: How much to measure.
        out: Folder for ``bench.csv``, rewritten after each case, and ``bench.png``; None writes nothing.
        tell: Called with the rows of each finished case.

    Raises:
        VistokError: an unknown op or a device that is not here; after all cases, a result of vistok's own that is wrong.
    """
    unknown = [op for op in ops if op not in OPS]
    if unknown:
        raise VistokError(f"there is no benchmark {unknown[0]!r}: choose from {', '.join(OPS)}")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise VistokError("there is no CUDA device here: leave out --device cuda")
    rows: list[Row] = []
    for op in ops or OPS:
        for number, case in enumerate(OPS[op](settings.quick)):
            found = run_case(case, number, settings)
            rows += found
            tell(found)
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                write_rows(rows, out / "bench.csv")
    if out is not None:
        from vistok.bench.plot import plot

        plot(rows, out / "bench.png")
    wrong = [row for row in rows if row.provider == "vistok" and row.correct not in ("", "yes")]
    if wrong:
        raise VistokError(f"{wrong[0].title}: vistok's own result is wrong: {wrong[0].correct}")
    return rows


def run_case(case: Case, number: int, settings: Settings) -> list[Row]:
    """The rows of one case, in the order of its providers."""
    blank = _blank(case, settings.device)
    if case.missing is not None:
        return [replace(blank, provider="vistok", note=case.missing)]
    inputs = case.inputs(settings.device)
    rows: dict[str, Row] = {}
    works: dict[str, Callable[[], object]] = {}
    for provider in case.providers:
        row = replace(blank, provider=provider.name, version=provider.version)
        reason = provider.absence(settings.device)
        if reason is not None:
            rows[provider.name] = replace(row, note=reason)
            continue
        chunk = chunk_size(case, provider, settings.device)
        if chunk < case.shape.num_latents:
            row = replace(row, note=f"in chunks of {chunk} latents")
        rows[provider.name], work = _checked(case, provider, inputs, chunk, row)
        if work is not None:
            works[provider.name] = work
    for name, times in _interleaved(works, settings).items():
        rows[name] = replace(
            rows[name], median_s=statistics.median(times), min_s=min(times), repeats=len(times)
        )
    if settings.memory and settings.device == "cuda":
        # PyTorch's allocator counts bytes whatever ran before, so no fresh process is needed
        for name, work in works.items():
            rows[name] = replace(rows[name], peak_bytes=peak_bytes(work, "cuda"))
    works.clear()
    if settings.memory and settings.device != "cuda":
        for name, row in rows.items():
            if row.median_s is not None:
                rows[name] = _with_memory(row, case, number, settings)
    return list(rows.values())


def chunk_size(case: Case, provider: Provider, device: str) -> int:
    """How many latents at a time a provider can take in half of the memory that is free."""
    per_latent = provider.bytes_per_pair * case.shape.num_codes
    num_latents = case.shape.num_latents
    if not per_latent:
        return num_latents
    fitting = int(free_bytes(device) / 2 / per_latent)
    if fitting >= num_latents:
        return num_latents
    return 1 << max(0, fitting.bit_length() - 1)


def _checked(
    case: Case, provider: Provider, inputs: Inputs, chunk: int, row: Row
) -> tuple[Row, Callable[[], object] | None]:
    try:
        work = provider.make(inputs)
        result = in_chunks(work, inputs, chunk)
    except (
        Exception
    ) as error:  # a line of the table, not the end of it; one of vistok's own is raised after all cases
        said = (str(error).strip().splitlines() or [""])[0][:120]
        reason = f"{type(error).__name__}: {said}"
        if provider.ours:
            return replace(row, correct=f"failed: {reason}"), None
        return replace(row, note=f"failed: {reason}"), None
    if result.indices is None and not result.values:
        # sums over a batch cannot be compared where it came in chunks
        note = "; ".join(filter(None, [row.note, "not checked"]))
        return replace(row, note=note), lambda: in_chunks(work, inputs, chunk)
    whole = chunk >= len(inputs.latents)
    fault, ties = case.check(inputs, result, provider.ours and whole)
    row = replace(row, correct=fault or "yes", near_ties=ties)
    return row, None if fault else lambda: in_chunks(work, inputs, chunk)


def _interleaved(works: dict[str, Callable[[], object]], settings: Settings) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in works}
    # in another order each round: what ran just before leaves memory and threads as the next one finds them
    order, draws = list(works), random.Random(0)
    for _ in range(settings.repeats):
        draws.shuffle(order)
        for name in order:
            if not times[name] or sum(times[name]) < settings.budget:
                times[name].append(seconds(works[name], settings.device))
    return times


def _with_memory(row: Row, case: Case, number: int, settings: Settings) -> Row:
    provider = case.provider(row.provider)
    question = {
        "op": case.op,
        "number": number,
        "quick": settings.quick,
        "device": settings.device,
        "provider": provider.name,
        "chunk": chunk_size(case, provider, settings.device),
    }
    try:
        return replace(row, peak_bytes=peak_bytes_in_a_fresh_process(question))
    except RuntimeError as error:
        return replace(
            row, note="; ".join(filter(None, [row.note, f"memory not measured: {str(error)[:120]}"]))
        )


def _blank(case: Case, device: str) -> Row:
    from vistok import __version__

    shape = case.shape
    return Row(
        case.op,
        "",
        case.stage,
        shape.num_latents,
        shape.num_codes,
        shape.dim,
        shape.stages,
        "float32",
        f"{device}: {machine(device)}",
        torch.get_num_threads(),
        torch=torch.__version__,
        vistok=__version__,
        commit=commit(),
        day=today(),
    )
