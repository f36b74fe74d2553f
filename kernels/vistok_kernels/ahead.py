"""Compiles every kernel for GPUs that are not here, and holds the result to: no spills, shared memory within the chip.

``python -m vistok_kernels.ahead`` prints a table and exits with 1 where a kernel fails; ``--all`` takes every dim of
``DIMS`` and every variant where the default takes one dim for each tile and the widest variants; ``--report`` adds the
occupancy and the floor time of each kernel on the target's chip. Needs Triton, not a GPU.

Kernels are found, not listed: every family's folder may have a module ``cases``, see ``case.py``.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, NamedTuple

import vistok_kernels
from vistok_kernels.case import NUM_LATENTS, Case

DIMS = (4, 8, 12, 16, 18, 32, 64, 256, 768)
ONE_PER_TILE = (8, 18, 256)


class Target(NamedTuple):
    """A GPU architecture, what one of its multiprocessors holds, and the chip that a report takes for it.

    Attributes:
        shared_limit: Bytes of shared memory that one program may take.
        shared: Bytes of shared memory of a multiprocessor, of which each program takes ``shared_reserved`` more.
        registers: 32-bit registers of a multiprocessor, granted to a warp in steps of ``register_step``.
        bandwidth: Bytes per second of the chip's memory.
        flops: Float32 operations per second of the chip, outside its tensor cores.
    """

    backend: str
    arch: int | str
    warp_size: int
    shared_limit: int
    shared: int
    shared_reserved: int
    registers: int
    register_step: int
    max_warps: int
    max_programs: int
    chip: str
    bandwidth: float
    flops: float


_KIB = 1024
_NVIDIA = (1 * _KIB, 64 * _KIB, 256, 64, 32)
# shared memory and residency from the vendors' tuning guides; bandwidth and flops from the data sheets of the SXM boards
TARGETS = {
    "sm_80": Target("cuda", 80, 32, 163 * _KIB, 164 * _KIB, *_NVIDIA, "A100", 2.04e12, 19.5e12),
    "sm_90": Target("cuda", 90, 32, 227 * _KIB, 228 * _KIB, *_NVIDIA, "H100", 3.35e12, 67e12),
    "sm_100": Target("cuda", 100, 32, 227 * _KIB, 228 * _KIB, *_NVIDIA, "B200", 8.0e12, 75e12),
    "gfx942": Target(
        "hip", "gfx942", 64, 64 * _KIB, 64 * _KIB, 0, 128 * _KIB, 512, 32, 32, "MI300X", 5.3e12, 163e12
    ),
}


class Outcome(NamedTuple):
    """What the compiler made of a case."""

    case: Case
    target: str
    registers: int
    spilled_bytes: int
    shared_bytes: int
    num_warps: int

    @property
    def fault(self) -> str | None:
        """Why the result is not fit to ship, or None."""
        if self.spilled_bytes:
            return f"spills {self.spilled_bytes} bytes"
        limit = TARGETS[self.target].shared_limit
        if self.shared_bytes > limit:
            return f"needs {self.shared_bytes} of {limit} bytes of shared memory"
        return None

    @property
    def occupancy(self) -> int:
        """Programs that a multiprocessor holds at once: the least that registers, shared memory and warps allow."""
        of = TARGETS[self.target]
        step = of.register_step
        per_warp = -(-max(self.registers, 1) * of.warp_size // step) * step
        by_registers = of.registers // per_warp // self.num_warps
        by_shared = of.shared // max(self.shared_bytes + of.shared_reserved, 1)
        return min(by_registers, by_shared, of.max_warps // self.num_warps, of.max_programs)

    @property
    def floor(self) -> tuple[float, str]:
        """The seconds below which no kernel can be on the target's chip, and whether bytes or flops set them."""
        of, case = TARGETS[self.target], self.case
        return max((case.num_bytes / of.bandwidth, "bytes"), (case.num_flops / of.flops, "flops"))


def cases(dims: Sequence[int], codebook_size: int = 16384, every: bool = True) -> Iterator[Case]:
    """The kernels of all families with the tiles that their launchers take for these dims, each once."""
    seen = set()
    for family in iter_modules(vistok_kernels.__path__, "vistok_kernels."):
        if not family.ispkg or find_spec(f"{family.name}.cases") is None:
            continue
        for dim in dims:
            for case in import_module(f"{family.name}.cases").cases(dim, codebook_size):
                key = (case.module, case.kernel, str(case.signature), str(case.constants), str(case.options))
                if key not in seen and (every or case.quick):
                    seen.add(key)
                    yield case


def compile_case(case: Case, target: str) -> Outcome:
    """Compiles one case for one target, as the launcher would, and reads what it takes from the machine code."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = getattr(import_module(case.module), case.kernel)
    constants = case.constants | dict.fromkeys(case.ones, 1)
    types = case.signature | dict.fromkeys(constants, "constexpr")
    source = ASTSource(
        function,
        signature={name: types[name] for name in function.arg_names},
        constexprs=constants,
        attrs={(function.arg_names.index(name),): [["tt.divisibility", 16]] for name in case.aligned},
    )
    of = TARGETS[target]
    compiled: Any = triton.compile(
        source, target=GPUTarget(of.backend, of.arch, of.warp_size), options=case.options
    )
    registers, spilled = (
        _nvidia_usage(compiled.asm["cubin"]) if of.backend == "cuda" else _amd_usage(compiled.asm["amdgcn"])
    )
    # the cubin counts static shared memory alone, Triton's is dynamic
    return Outcome(
        case, target, registers, spilled, compiled.metadata.shared, case.options.get("num_warps", 4)
    )


def _nvidia_usage(cubin: bytes) -> tuple[int, int]:
    """Registers of a thread and the bytes of its stack and local memory, as cuobjdump prints them."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        printed = subprocess.run(
            [tool, "--dump-resource-usage", path], capture_output=True, text=True, check=True
        ).stdout
    found = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", printed)}
    return found["REG"], found["STACK"] + found["LOCAL"]


def _amd_usage(assembly: str) -> tuple[int, int]:
    """Vector registers of a lane and the bytes of its scratch memory, from the kernel's metadata."""
    found = dict(re.findall(r"\.(vgpr_count|private_segment_fixed_size):\s+(\d+)", assembly))
    return int(found["vgpr_count"]), int(found["private_segment_fixed_size"])


def compile_all(todo: Sequence[Case], targets: Sequence[str], num_workers: int) -> Iterator[Outcome]:
    """Compiles every case for every target, in processes since the compiler is not parallel within one."""
    with ProcessPoolExecutor(num_workers) as pool:
        for target in targets:
            yield from pool.map(partial(compile_case, target=target), todo)


def _line(outcome: Outcome, report: bool) -> str:
    case = outcome.case
    shown = f"{case.kernel:<34}{case.variant:<20}{case.dim:>4}  {outcome.target:<8}{outcome.registers:>9}"
    shown += f"{outcome.spilled_bytes:>8}{outcome.shared_bytes:>8}"
    if report:
        seconds, bound = outcome.floor
        shown += f"{outcome.occupancy:>10}  {TARGETS[outcome.target].chip:<7}{1e6 * seconds:>10.1f} {bound}"
    return f"{shown}  {outcome.fault or 'ok'}"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line for each kernel, dim and target; returns 1 where one does not fit."""
    parser = argparse.ArgumentParser(prog="python -m vistok_kernels.ahead", description=__doc__)
    parser.add_argument("--all", action="store_true", help="every dim and variant")
    parser.add_argument("--report", action="store_true", help="occupancy and floor time as well")
    parser.add_argument(
        "--codebook-size", type=int, default=16384, help="of a report's floors (default: %(default)s)"
    )
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this one; may be repeated")
    parser.add_argument(
        "--workers", type=int, default=2, help="processes that compile (default: %(default)s)"
    )
    given = parser.parse_args(argv)
    todo = list(cases(DIMS if given.all else ONE_PER_TILE, given.codebook_size, given.all))
    header = (
        f"{'kernel':<34}{'variant':<20}{'dim':>4}  {'target':<8}{'registers':>9}{'spilled':>8}{'shared':>8}"
    )
    if given.report:
        print(
            f"floors at {NUM_LATENTS} latents and {given.codebook_size} codes; float32 outside tensor cores"
        )
        header += f"{'programs':>10}  {'chip':<7}{'floor/us':>10} bound"
    print(f"{header}  verdict")
    num_faults = 0
    for outcome in compile_all(todo, given.target or list(TARGETS), given.workers):
        print(_line(outcome, given.report), flush=True)
        num_faults += outcome.fault is not None
    print(f"{num_faults} failed" if num_faults else "all fit")
    return min(num_faults, 1)


if __name__ == "__main__":
    sys.exit(main())
