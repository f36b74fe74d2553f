"""``vistok export``: flags become settings, and the one line is told."""

import argparse
import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from tests.shards.exports.conftest import (
    continuous,
    discrete,
    labels,
    random_tokens,
    with_flips,
    write_shards,
)
from vistok.cli import main
from vistok.cli.export import _NUMBERING, _SETTINGS, FORMATS, add_arguments, chosen_format
from vistok.shards import exports


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    arrays = random_tokens()
    return str(write_shards(tmp_path_factory.mktemp("cli") / "tokens", arrays, discrete(), labels(arrays)))


def test_help_names_the_formats_that_there_are():
    assert set(FORMATS) == set(exports.FORMATS)


def test_every_setting_of_every_format_has_an_argument():
    parser = argparse.ArgumentParser()
    add_arguments("export", parser)
    arguments = {action.dest for action in parser._actions}
    for format_class in exports.FORMATS.values():
        names = {field.name for field in dataclasses.fields(format_class)} - {"tokens"}
        assert names <= arguments and names <= set(_SETTINGS)
    numbering = {field.name for field in dataclasses.fields(exports.TokenNumbering)}
    assert numbering == set(_NUMBERING) and numbering <= arguments


def test_the_caller_gives_the_ids(made, tmp_path, capsys):
    argv = ["export", "--from", made, "--to", "megatron", "--out", str(tmp_path / "out")]
    assert main([*argv, "--offset", "100", "--bos", "1", "--eos", "2", "--vocab-size", "70000"]) == 0
    assert "7 samples, 112 tokens as megatron, 2 files" in capsys.readouterr().out
    read = np.fromfile(tmp_path / "out" / "tokens.bin", "<i4").reshape(7, 18)
    assert (read[:, 0] == 1).all() and (read[:, -1] == 2).all()
    assert np.array_equal(read[:, 1:-1] - 100, np.stack(list(random_tokens().values()))[:, :, 0])


def test_the_summary_goes_to_a_file_and_notes_to_stderr(made, tmp_path, capsys):
    target = tmp_path / "summary.json"
    argv = [
        "export",
        "--from",
        made,
        "--to",
        "llamagen",
        "--out",
        str(tmp_path / "out"),
        "--json",
        str(target),
    ]
    assert main(argv) == 0
    captured = capsys.readouterr()
    assert "vistok: note: LlamaGen's reader asks for 1281167 images" in captured.err
    assert captured.out.count("\n") == 1
    assert json.loads(target.read_text())["num_files"] == 14


@pytest.mark.parametrize("place", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_that_is_a_file_keeps_what_it_holds(made, tmp_path, place):
    log = tmp_path / "log"
    argv = ["export", "--from", made, "--to", "megatron", "--out", str(tmp_path / "out"), "--json", place]
    with log.open("w") as file:
        file.write("before\n")
        file.flush()
        subprocess.run([sys.executable, "-m", "vistok", *argv], stdout=file, check=True)
    first, told, *rest = log.read_text().splitlines()
    assert first == "before" and "112 tokens as megatron" in told
    assert json.loads("\n".join(rest))["num_tokens"] == 112


@pytest.mark.parametrize("flag", [["--json"], ["--json", "-"]])
def test_json_without_a_file_is_all_that_is_printed(made, tmp_path, capsys, flag):
    argv = ["export", "--from", made, "--to", "megatron", "--out", str(tmp_path / "out")]
    assert main([*argv, *flag]) == 0
    assert json.loads(capsys.readouterr().out)["num_tokens"] == 112


def test_latents_go_with_their_settings(tmp_path):
    arrays, fields = with_flips()
    made = str(write_shards(tmp_path / "made", arrays, continuous(), fields))
    argv = ["export", "--from", made, "--to", "mar", "--out", str(tmp_path / "out")]
    assert main([*argv, "--views", "original", "--classes", "key", "--logvar", "-20", "--normalised"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == [
        "class_0",
        "class_1",
    ]


@pytest.mark.parametrize(
    ("to", "flags", "told"),
    [
        ("mar", ["--eos", "5"], "--eos means nothing to mar"),
        ("megatron", ["--default-label", "5"], "--default-label means nothing to megatron"),
        ("llamagen", ["--eos", "5000"], "no place for special tokens"),
        ("lightningdit", [], "lightningdit holds latents"),
        ("megatron", ["--eos", "5"], "eos 5 lies among the image tokens"),
        ("megatron", ["--stream", "text"], "no stream 'text'"),
    ],
)
def test_settings_that_do_not_fit_are_one_line_with_the_reason(made, tmp_path, capsys, to, flags, told):
    assert main(["export", "--from", made, "--to", to, "--out", str(tmp_path / "out"), *flags]) == 1
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_wrong_arguments_are_told_as_such(made, tmp_path, capsys):
    argv = ["export", "--from", made, "--out", str(tmp_path / "out"), "--to"]
    assert main([*argv, "csv"]) == 2
    assert main([*argv, "megatron", "--offset", "-1"]) == 2
    assert "not an integer of at least 0" in capsys.readouterr().err


def test_what_was_not_given_is_the_formats_own_default():
    parser = argparse.ArgumentParser()
    add_arguments("export", parser)
    for name, format_class in exports.FORMATS.items():
        assert chosen_format(parser.parse_args(["--from", "x", "--to", name, "--out", "y"])) == format_class()
