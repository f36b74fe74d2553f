"""The kernels compile for GPUs that are not here, within what those offer."""

import os

import pytest

pytest.importorskip("triton")
from vistok_kernels import ahead

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter has no compiled kernels"
)


@pytest.mark.parametrize("target", ahead.TARGETS)
def test_a_search_and_a_rounding_fit_every_target(target: str) -> None:
    chosen = [case for case in ahead.cases([8]) if case.kernel in ("nearest_code_kernel", "fsq_kernel")]
    assert len(chosen) == 2
    for case in chosen:
        outcome = ahead.compile_case(case, target)
        assert outcome.fault is None
        assert (outcome.registers is not None) == target.startswith("sm_")


def test_spills_and_too_much_shared_memory_are_faults() -> None:
    case = next(iter(ahead.cases([8])))
    assert ahead.Outcome(case, "sm_90", 255, 8, 0).fault == "spills 8 bytes"
    assert "shared memory" in str(ahead.Outcome(case, "gfx942", None, None, 65 * 1024).fault)
    assert ahead.Outcome(case, "sm_90", 128, 0, 0).fault is None
