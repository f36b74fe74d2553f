"""What importing the package costs and needs, and the kernels in the interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(code: str, cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_importing_does_not_load_triton(tmp_path: Path) -> None:
    run("import sys, vistok_kernels; assert 'triton' not in sys.modules", tmp_path)


def test_everything_on_the_cpu_works_where_triton_is_missing(tmp_path: Path) -> None:
    run(
        "import sys\n"
        "sys.modules['triton'] = None\n"
        "import torch\n"
        "from vistok_kernels import code_sums, fsq, fsq_decode, nearest_code\n"
        "latents = torch.randn(20, 3, requires_grad=True)\n"
        "indices = nearest_code(latents, torch.randn(8, 3))\n"
        "counts, sums = code_sums(latents, indices, 8)\n"
        "assert counts.sum() == 20\n"
        "quantized, indices = fsq(latents, (5, 4, 3))\n"
        "assert torch.equal(fsq_decode(indices, (5, 4, 3)), quantized)\n"
        "quantized.sum().backward()\n"
        "assert latents.grad is not None\n",
        tmp_path,
    )


@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="this is the process that the test starts"
)
def test_kernels_pass_their_tests_in_the_interpreter(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    root, tests = Path(__file__).parents[2], sorted(Path(__file__).parent.glob("test_*interpreter.py"))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-c",
            str(root / "pyproject.toml"),
            *map(str, tests),
        ],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        # not the repository, which would put its folder kernels/ on the path
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and "skipped" not in done.stdout
