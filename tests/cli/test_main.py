"""The command line: what it answers, and with which status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from vistok.cli import COMMANDS, main


def run(capsys, *argv):
    status = main(list(argv))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_help_names_every_command_without_loading_torch():
    code = "import sys; from vistok.cli import main; s = main(['--help']); print('torch' in sys.modules); sys.exit(s)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    "command", ["demo", "encode", "decode", "verify", "export", "eval", "import", "info", "fit"]
)
def test_help_of_a_command_does_not_load_torch(command):
    code = f"import sys; from vistok.cli import main; s = main(['{command}', '--help']); print('torch' in sys.modules); sys.exit(s)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False" and f"vistok {command}" in done.stdout


def test_python_minus_m_is_the_same():
    done = subprocess.run(
        [sys.executable, "-m", "vistok", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("vistok ")


def test_without_a_command_it_helps(capsys):
    status, out, _ = run(capsys)
    assert status == 0 and "commands:" in out


@pytest.mark.parametrize(
    "argv",
    [
        ["nonsense"],
        ["--nonsense"],
        ["encode", "--tokenizer", "t"],
        ["encode", "--tokenizer", "t", "--data", "d", "--out", "o", "--on-error", "ignore"],
        ["encode", "--tokenizer", "t", "--data", "d", "--out", "o", "--batch-size", "0"],
        ["verify"],
        ["info", "a", "b"],
        ["fit"],
        ["fit", "--config"],
    ],
    ids=" ".join,
)
def test_wrong_arguments_give_one_line_and_status_2(capsys, argv):
    status, out, err = run(capsys, *argv)
    assert status == 2 and out == "" and err.startswith("vistok: error: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    "argv",
    [
        ["info", "/nothing/here"],
        ["verify", "/nothing/here"],
        ["eval", "--tokenizer", "/nothing/here", "--data", "photos"],
        ["encode", "--tokenizer", "/nothing/here", "--data", "photos", "--out", "o"],
        ["decode", "--tokenizer", "/nothing/here", "--shards", "s", "--out", "o"],
        ["fit", "--config", "/nothing/here.yaml"],
    ],
    ids=lambda argv: argv[0],
)
def test_what_is_missing_is_named_in_one_line_with_status_1(capsys, argv):
    status, _, err = run(capsys, *argv)
    assert (
        status == 1 and "/nothing/here" in err and err.startswith("vistok: error: ") and err.count("\n") == 1
    )


def test_debug_shows_the_traceback(capsys):
    status, _, err = run(capsys, "--debug", "info", "/nothing/here")
    assert status == 1 and "Traceback" in err


def test_ctrl_c_while_training_keeps_what_there_is_and_gives_130(tmp_path):
    command = [sys.executable, "-m", "vistok", "fit", "--config", "demo", "--config", "tiny"]
    command += [
        "--trainer.default_root_dir",
        str(tmp_path),
        "--trainer.max_steps",
        "100000",
        "--data.size",
        "32",
    ]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "images").is_dir() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err and "checkpoints/last.ckpt" in err
    assert (tmp_path / "tokenizer" / "config.json").is_file() and (
        tmp_path / "checkpoints" / "last.ckpt"
    ).is_file()
