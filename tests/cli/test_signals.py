"""The command line ends with 130 and one line when it is told to stop."""

import os
import signal
import subprocess
import sys

import pytest

from tests.shards.conftest import build_tokenizer, wait_for


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_encode_with_130_and_word_of_what_is_kept(tmp_path, number):
    build_tokenizer().save(tmp_path / "tokenizer")
    out = tmp_path / "out"
    argv = ["--tokenizer", tmp_path / "tokenizer", "--data", "procedural:100000:64", "--out", out]
    command = [sys.executable, "-m", "vistok", "encode", *map(str, argv), "--shard-size", "4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        wait_for(out / "shard-000001.json", 120.0)
        process.send_signal(number)
        printed, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and not printed
    last = told.splitlines()[-1]
    assert last.startswith("vistok: stopped: ") and last.endswith("run the same again to go on")
    assert "Traceback" not in told and not list(out.glob(".vistok-temp-*"))
