"""The kernels compile for GPUs that are not here, within what those offer."""

import os

import pytest

pytest.importorskip("triton")
from vistok_kernels import ahead

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter has no compiled kernels"
)


@pytest.mark.parametrize("target", ahead.TARGETS)
def test_a_kernel_of_every_family_fits_every_target(target: str) -> None:
    names = {
        "nearest_code_kernel": "",
        "fsq_kernel": "",
        "bit_pack_kernel": "",
        "multi_scale_codes_kernel": "smoothed",
        "row_means_kernel": "dot entropy",
    }
    chosen = [case for case in ahead.cases([8]) if names.get(case.kernel) == case.variant]
    assert len(chosen) == len(names)
    for case in chosen:
        outcome = ahead.compile_case(case, target)
        assert outcome.fault is None
        assert outcome.registers > 0 and outcome.occupancy >= 1


def test_every_kernel_is_found_once_and_the_quick_ones_are_fewer() -> None:
    every, quick = list(ahead.cases(ahead.DIMS)), list(ahead.cases(ahead.ONE_PER_TILE, every=False))
    keys = {(case.kernel, str(case.constants), str(case.options), str(case.signature)) for case in every}
    assert len(keys) == len(every)
    assert {case.kernel for case in quick} == {case.kernel for case in every}
    assert len(quick) < len(every) / 2


def test_every_case_names_each_argument_of_its_kernel() -> None:
    from importlib import import_module

    for case in ahead.cases([8, 256]):
        function = getattr(import_module(case.module), case.kernel)
        assert set(function.arg_names) == set(case.signature) | set(case.constants), case.kernel
        assert set(case.aligned) | set(case.ones) <= set(case.signature)
        assert case.num_bytes > 0 and case.num_flops > 0


def outcome(target: str, registers: int, spilled: int, shared: int) -> ahead.Outcome:
    case = next(iter(ahead.cases([8])))._replace(num_bytes=2_040_000, num_flops=39_000_000)
    return ahead.Outcome(case, target, registers, spilled, shared, num_warps=4)


def test_spills_and_too_much_shared_memory_are_faults() -> None:
    assert outcome("sm_90", 255, 8, 0).fault == "spills 8 bytes"
    assert "shared memory" in str(outcome("gfx942", 64, 0, 65 * 1024).fault)
    assert outcome("sm_90", 128, 0, 0).fault is None


def test_occupancy_is_what_the_scarcest_resource_allows() -> None:
    # 128 registers x 128 threads are a quarter of the 65536
    assert outcome("sm_80", 128, 0, 0).occupancy == 4
    assert outcome("sm_80", 16, 0, 40 * 1024).occupancy == 4
    assert outcome("sm_80", 16, 0, 0).occupancy == 16
    # 512 registers a lane and SIMD, four of them
    assert outcome("gfx942", 128, 0, 0).occupancy == 4
    assert outcome("gfx942", 16, 0, 33 * 1024).occupancy == 1


def test_the_floor_is_the_longer_of_memory_and_arithmetic() -> None:
    seconds, bound = outcome("sm_80", 1, 0, 0).floor
    assert bound == "flops" and seconds == pytest.approx(2e-6)
    seconds, bound = outcome("sm_90", 1, 0, 0).floor
    assert bound == "bytes" and seconds == pytest.approx(2.04e6 / 3.35e12)
