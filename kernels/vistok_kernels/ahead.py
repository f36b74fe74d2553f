"""Compiles every kernel for GPUs that are not here, and holds the result to: no spills, shared memory within the chip.

``python -m vistok_kernels.ahead`` prints a table and exits with 1 where a kernel fails; ``--all`` takes every dim of
``DIMS`` where the default takes one for each tile. Needs Triton, not a GPU.
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
from pathlib import Path
from typing import Any, NamedTuple

DIMS = (4, 8, 18, 32, 64, 256, 768)
ONE_PER_TILE = (8, 18, 256)


class Target(NamedTuple):
    """A GPU architecture and the bytes of shared memory that one program may take on it."""

    backend: str
    arch: int | str
    warp_size: int
    shared_limit: int


TARGETS = {
    "sm_80": Target("cuda", 80, 32, 163 * 1024),
    "sm_90": Target("cuda", 90, 32, 227 * 1024),
    "sm_100": Target("cuda", 100, 32, 227 * 1024),
    "gfx942": Target("hip", "gfx942", 64, 64 * 1024),
}


class Case(NamedTuple):
    """One kernel at one dim: its name in the table, its argument types, and its compile-time values."""

    kernel: str
    dim: int
    signature: dict[str, str]
    constants: dict[str, int]
    options: dict[str, int]


class Outcome(NamedTuple):
    """What the compiler made of a case; registers and spills are None where the target's tools do not tell."""

    case: Case
    target: str
    registers: int | None
    spilled_bytes: int | None
    shared_bytes: int

    @property
    def fault(self) -> str | None:
        """Why the result is not fit to ship, or None."""
        if self.spilled_bytes:
            return f"spills {self.spilled_bytes} bytes"
        limit = TARGETS[self.target].shared_limit
        return (
            f"needs {self.shared_bytes} of {limit} bytes of shared memory"
            if self.shared_bytes > limit
            else None
        )


def cases(dims: Sequence[int]) -> Iterator[Case]:
    """All kernels with the tiles that their launchers take for these dims, on float32 and on bfloat16 latents."""
    from vistok_kernels.fsq.kernel import block
    from vistok_kernels.vq.kernel import search_tile, sums_tile

    strides = {"stride_row": "i32", "stride_channel": "i32"}
    for dim in dims:
        tile, narrow = search_tile(dim), sums_tile(dim)
        pointers = {
            "latents": "*bf16",
            "codes": "*fp32",
            "half_norms": "*fp32",
            "center": "*fp32",
            "scale": "*fp32",
        }
        yield Case(
            "nearest_code_kernel",
            dim,
            pointers | {"indices": "*i64", "num_latents": "i32", "num_codes": "i32"} | strides,
            {"DIM": dim, "BLOCK_ROWS": tile.rows, "BLOCK_CODES": tile.codes, "BLOCK_CHANNELS": tile.channels},
            {"num_warps": tile.num_warps, "num_stages": tile.num_stages},
        )
        yield Case(
            "code_sums_kernel",
            dim,
            {"latents": "*fp32", "order": "*i64", "offsets": "*i64", "sums": "*fp32"} | strides,
            {"DIM": dim, "BLOCK_ROWS": narrow.rows, "BLOCK_CHANNELS": narrow.channels},
            {"num_warps": narrow.num_warps, "num_stages": narrow.num_stages},
        )
    for dim in (dim for dim in dims if dim <= 32):
        rows, width = block(dim)
        constants = {"DIM": dim, "BLOCK_ROWS": rows, "BLOCK_CHANNELS": width}
        tables = {
            "shift": "*fp32",
            "reach": "*fp32",
            "offset": "*fp32",
            "half_widths": "*i64",
            "bases": "*i64",
        }
        results = {"quantized": "*fp32", "indices": "*i64", "num_latents": "i32"}
        yield Case("fsq_kernel", dim, {"latents": "*bf16"} | tables | results | strides, constants, {})
        gradients = {
            "gradient": "*fp32",
            "latents": "*bf16",
            "shift": "*fp32",
            "slope": "*fp32",
            "gradient_in": "*bf16",
        }
        more = {"stride_gradient_row": "i32", "stride_gradient_channel": "i32"}
        yield Case(
            "fsq_backward_kernel", dim, gradients | {"num_latents": "i32"} | strides | more, constants, {}
        )


def compile_case(case: Case, target: str) -> Outcome:
    """Compiles one case for one target and reads what it takes from the machine code."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from vistok_kernels.fsq import kernel as fsq_kernels
    from vistok_kernels.vq import kernel as vq_kernels

    function = getattr(vq_kernels, case.kernel, None) or getattr(fsq_kernels, case.kernel)
    signature = case.signature | dict.fromkeys(case.constants, "constexpr")
    source = ASTSource(
        function, signature={n: signature[n] for n in function.arg_names}, constexprs=case.constants
    )
    backend, arch, warp_size, _ = TARGETS[target]
    compiled: Any = triton.compile(source, target=GPUTarget(backend, arch, warp_size), options=case.options)
    usage = _usage(compiled.asm["cubin"]) if backend == "cuda" else {}
    # the cubin counts static shared memory alone, Triton's is dynamic
    spilled = usage["STACK"] + usage["LOCAL"] if usage else None
    return Outcome(case, target, usage.get("REG"), spilled, compiled.metadata.shared)


def _usage(cubin: bytes) -> dict[str, int]:
    """Registers and bytes of each memory, as cuobjdump prints them."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        printed = subprocess.run(
            [tool, "--dump-resource-usage", path], capture_output=True, text=True, check=True
        ).stdout
    return {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", printed)}


def compile_all(dims: Sequence[int], targets: Sequence[str], num_workers: int) -> Iterator[Outcome]:
    """Compiles every case for every target, in processes since the compiler is not parallel within one."""
    todo = list(cases(dims))
    with ProcessPoolExecutor(num_workers) as pool:
        for target in targets:
            yield from pool.map(partial(compile_case, target=target), todo)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line for each kernel, dim and target; returns 1 where one does not fit."""
    parser = argparse.ArgumentParser(prog="python -m vistok_kernels.ahead", description=__doc__)
    parser.add_argument("--all", action="store_true", help="every dim, not one for each tile")
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this one; may be repeated")
    parser.add_argument(
        "--workers", type=int, default=2, help="processes that compile (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    dims = DIMS if arguments.all else ONE_PER_TILE
    num_faults = 0
    print(f"{'kernel':<22}{'dim':>5}  {'target':<8}{'registers':>10}{'spilled':>9}{'shared':>8}  verdict")
    for outcome in compile_all(dims, arguments.target or list(TARGETS), arguments.workers):
        case, registers, spilled = outcome.case, outcome.registers, outcome.spilled_bytes
        shown = "".join(f"{'-' if n is None else n:>{w}}" for n, w in ((registers, 10), (spilled, 9)))
        line = f"{case.kernel:<22}{case.dim:>5}  {outcome.target:<8}{shown}{outcome.shared_bytes:>8}"
        print(f"{line}  {outcome.fault or 'ok'}", flush=True)
        num_faults += outcome.fault is not None
    print(f"{num_faults} failed" if num_faults else "all fit")
    return min(num_faults, 1)


if __name__ == "__main__":
    sys.exit(main())
