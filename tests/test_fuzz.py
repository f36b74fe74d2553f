"""Damaged files are told by vistok's own errors, whatever the damage: a short search in each run, a minute with ``-m slow``."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", ["shards", "weights"])
def test_a_fuzzer_finds_no_exception_but_vistoks_own(tmp_path, what, seconds):
    pytest.importorskip("atheris")
    script = Path(__file__).with_name("fuzz.py")
    run = subprocess.run(
        [sys.executable, str(script), what, "--seconds", str(seconds)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    assert "number_of_executed_units" in run.stderr and not list(tmp_path.glob("crash-*"))
