"""Bad input of every kind: one line on stderr, a status that is not 0, and nothing half-written."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from vistok.backbones import ConvDecoder, ConvEncoder
from vistok.cli import main
from vistok.quantizers import FSQ
from vistok.spec import ImagePolicy
from vistok.tokenizer import Tokenizer


def build_tokenizer(seed=0, **options):
    torch.manual_seed(seed)
    size = {"channels": 8, "multipliers": (1,), "num_res_blocks": 1, "patch": 8}
    return Tokenizer(ConvEncoder(dim=3, **size), FSQ((8, 5, 5)), ConvDecoder(dim=3, **size), **options)


def photograph(width=32, height=32, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def jpeg(image):
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Tokenizers and folders of images, good and bad."""
    root = tmp_path_factory.mktemp("inputs")
    build_tokenizer().save(root / "tokenizer")
    build_tokenizer(seed=1).save(root / "other")
    build_tokenizer(image=ImagePolicy(fit="refuse")).save(root / "refusing")
    for name in ("good", "text", "truncated", "nan", "odd", "late"):
        (root / name).mkdir()
    for number in range(3):
        photograph(seed=number).save(root / "good" / f"{number}.png")
        photograph(seed=number).save(root / "late" / f"{number}.png")
    (root / "late" / "9.jpg").write_text("this is no image")
    (root / "text" / "a.jpg").write_text("this is no image")
    data = jpeg(photograph(96, 96))
    (root / "truncated" / "a.jpg").write_bytes(data[: len(data) // 2])
    Image.fromarray(np.full((32, 32), np.nan, np.float32)).save(root / "nan" / "a.tiff")
    photograph(30, 33).save(root / "odd" / "a.png")
    (root / "empty").mkdir()

    shutil.copytree(root / "tokenizer", root / "lacking")
    weights = load_file(root / "lacking" / "model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, root / "lacking" / "model.safetensors")
    torch.save({"state_dict": {}}, root / "model.pt")
    return root


@pytest.fixture
def refused(capsys):
    """Runs a command that must fail, and gives the one line that it says."""

    def run(*argv, status=1):
        capsys.readouterr()
        assert main([str(argument) for argument in argv]) == status
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1 and captured.out == ""
        # a bar that was wiped away, by blanks after a carriage return, is on the same line
        lines = [text for text in captured.err.split("\r") if text.strip()]
        assert lines[-1].startswith("vistok: error: ")
        return lines

    return run


IMAGES = {
    "text": "known format",
    "truncated": "truncated",
    "nan": "NaN",
    "nowhere": "no images",
    "empty": "no images",
}


@pytest.mark.parametrize("kind", IMAGES)
def test_encode_refuses_bad_images_and_leaves_nothing(place, tmp_path, refused, kind):
    argv = ["encode", "--tokenizer", place / "tokenizer", "--out", tmp_path / "a" / "out"]
    lines = refused(*argv, "--data", place / kind)
    assert len(lines) == 1 and IMAGES[kind] in lines[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["text", "truncated", "nan"])
def test_the_same_output_takes_good_images_afterwards(place, tmp_path, refused, kind):
    argv = ["encode", "--tokenizer", place / "tokenizer", "--out", tmp_path]
    refused(*argv, "--data", place / kind)
    assert list(tmp_path.iterdir()) == []  # it was there before, so it stays
    assert main([str(argument) for argument in [*argv, "--data", place / "good"]]) == 0


def test_a_failure_after_the_first_batch_leaves_nothing_and_wipes_the_bar(place, tmp_path, refused):
    argv = ["encode", "--tokenizer", place / "tokenizer", "--out", tmp_path / "out", "--batch-size", 1]
    lines = refused(*argv, "--data", place / "late")
    assert "'9.jpg'" in lines[-1]
    assert not (tmp_path / "out").exists()


def test_a_failure_in_a_later_shard_keeps_the_earlier_ones(place, tmp_path, refused):
    argv = ["encode", "--tokenizer", place / "tokenizer", "--out", tmp_path / "out", "--shard-size", 1]
    refused(*argv, "--data", place / "late")
    assert len(list((tmp_path / "out").glob("shard-*.json"))) == 3
    (line,) = refused(*argv, "--data", place / "good")
    assert "holds shards of another run" in line


@pytest.mark.parametrize("kind", IMAGES)
def test_eval_refuses_bad_images_and_leaves_nothing(place, tmp_path, refused, kind):
    argv = ["eval", "--tokenizer", place / "tokenizer", "--perceptual", "none", "--data", place / kind]
    lines = refused(*argv, "--json", tmp_path / "result.json")
    assert len(lines) == 1 and IMAGES[kind] in lines[0]
    assert list(tmp_path.iterdir()) == []


TOKENIZERS = {
    "lacking": "lacks key",
    "nowhere": "no such folder",
    "empty": "no config.json",
    "model.pt": "is a file",
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("command", ["encode", "decode", "eval", "info"])
def test_what_is_no_tokenizer_is_refused(place, tmp_path, refused, command, kind):
    argv = {
        "encode": ["--data", place / "good", "--out", tmp_path / "out", "--tokenizer"],
        "decode": ["--shards", place / "empty", "--out", tmp_path / "out", "--tokenizer"],
        "eval": ["--data", place / "good", "--json", tmp_path / "result.json", "--tokenizer"],
        "info": [],
    }[command]
    (line,) = refused(command, *argv, place / kind)
    assert TOKENIZERS[kind] in line
    assert list(tmp_path.iterdir()) == []


def test_a_policy_that_refuses_sizes_is_told_with_the_size(place, tmp_path, refused):
    argv = ["--tokenizer", place / "refusing", "--data", place / "odd"]
    (line,) = refused("encode", *argv, "--out", tmp_path / "out")
    assert "30" in line and "33" in line
    (line,) = refused("eval", *argv, "--perceptual", "none")
    assert "30" in line and "33" in line
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def shards(place):
    out = place / "shards"
    assert (
        main(
            [
                "encode",
                "--tokenizer",
                f"{place / 'tokenizer'}",
                "--data",
                f"{place / 'good'}",
                "--out",
                f"{out}",
            ]
        )
        == 0
    )
    return out


def test_shards_of_another_tokenizer_are_not_decoded(place, shards, tmp_path, refused):
    argv = ["decode", "--tokenizer", place / "other", "--shards", shards, "--out", tmp_path / "png"]
    (line,) = refused(*argv)
    assert "another tokenizer" in line
    assert list(tmp_path.iterdir()) == []


def test_damaged_shards_are_not_decoded(place, shards, tmp_path, refused):
    shutil.copytree(shards, tmp_path / "shards")
    (shard,) = (tmp_path / "shards").glob("shard-*.arrow")
    shard.write_bytes(shard.read_bytes()[:-700])
    argv = ["decode", "--tokenizer", place / "tokenizer", "--shards", tmp_path / "shards"]
    (line,) = refused(*argv, "--out", tmp_path / "a" / "png")
    assert shard.name in line
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("kind", ["nowhere", "empty", "model.pt", "good"])
@pytest.mark.parametrize("command", ["verify", "decode"])
def test_what_is_no_directory_of_shards_is_refused(place, tmp_path, refused, command, kind):
    more = ["--tokenizer", place / "tokenizer", "--out", tmp_path / "png", "--shards"]
    (line,) = refused(command, *(more if command == "decode" else []), place / kind)
    assert kind in line
    assert list(tmp_path.iterdir()) == []
    assert not (place / "nowhere").exists() and not list((place / "empty").iterdir())


@pytest.mark.parametrize("target", ["/proc/x/y.json", "nowhere/y.json", "."])
def test_a_place_where_results_cannot_go_is_told_before_the_evaluation(place, tmp_path, refused, target):
    # were the images looked at first, these would be complained of
    argv = ["eval", "--tokenizer", place / "tokenizer", "--data", place / "text", "--perceptual", "none"]
    (line,) = refused(*argv, "--json", tmp_path / target)
    assert "--json" in line and "cannot be written" in line and "Errno" not in line
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_that_fails_leaves_the_old_results(place, tmp_path, refused):
    target = tmp_path / "result.json"
    target.write_text("old")
    argv = ["eval", "--tokenizer", place / "tokenizer", "--data", place / "text", "--perceptual", "none"]
    refused(*argv, "--json", target)
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_metrics_cannot_be_stored_where_there_is_no_folder(refused):
    (line,) = refused("eval", "--tokenizer", "someone/tokenizer", "--data", "photos", "--write")
    assert "--write" in line


@pytest.mark.parametrize("photos", ["text", "truncated", "nan", "empty", "nowhere", "broken"])
def test_the_demo_refuses_bad_photographs_before_it_writes(place, tmp_path, refused, photos):
    if photos == "broken":
        (place / "broken").mkdir()
        for number in range(3):
            (place / "broken" / f"{number}.jpg").write_text("this is no image")
    (line,) = refused("demo", "--out", tmp_path / "demo", "--photos", place / photos, "--seconds", 1)
    assert photos in line
    assert list(tmp_path.iterdir()) == []


ENCODE = ["encode", "--tokenizer", "t", "--data", "d", "--out", "o"]
EVAL = ["eval", "--tokenizer", "t", "--data", "d"]


@pytest.mark.parametrize(
    "argv",
    [
        [*ENCODE, "--workers", "-3"],
        [*ENCODE, "--workers", "two"],
        [*ENCODE, "--batch-size", "0"],
        [*ENCODE, "--shard-size", "0"],
        [*EVAL, "--size", "0"],
        [*EVAL, "--batch-size", "1.5"],
        ["decode", "--tokenizer", "t", "--shards", "s", "--out", "o", "--batch-size", "-1"],
        *(["demo", "--seconds", seconds] for seconds in ("-1", "0", "nan", "inf", "1e999", "soon")),
    ],
    ids=lambda argv: f"{argv[0]} {argv[-2]} {argv[-1]}",
)
def test_wrong_values_of_options_are_usage_errors(refused, argv):
    (line,) = refused(*argv, status=2)
    assert argv[-2] in line and argv[-1] in line and "--help" in line


def test_the_program_itself_says_one_line(place, tmp_path):
    argv = ["encode", "--tokenizer", place / "tokenizer", "--data", place / "text", "--out", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "vistok", *map(str, argv)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("vistok: error: ") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_stored_metrics_are_told_by_info_and_change_nothing_else(place, tmp_path, capsys):
    folder = tmp_path / "tokenizer"
    shutil.copytree(place / "tokenizer", folder)
    argv = ["eval", "--tokenizer", str(folder), "--data", str(place / "good"), "--perceptual", "none"]
    before = json.loads((folder / "config.json").read_text())
    assert main([*argv, "--write"]) == 0
    assert main([*argv, "--write"]) == 0  # the same numbers again replace themselves
    after = json.loads((folder / "config.json").read_text())
    metrics = after["spec"].pop("metrics")
    assert len({record["name"] for record in metrics}) == len(metrics)
    assert {"psnr", "bits_per_pixel"} <= {record["name"] for record in metrics}
    assert {record["data"] for record in metrics} == {"good"}
    assert before["spec"].pop("metrics") == [] and before == after
    weights = [load_file(path / "model.safetensors") for path in (place / "tokenizer", folder)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0] | weights[1])
    capsys.readouterr()
    assert main(["info", str(folder)]) == 0
    assert "psnr" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]


def test_results_go_through_a_link_and_into_a_device(place, tmp_path):
    argv = [
        "eval",
        "--tokenizer",
        str(place / "tokenizer"),
        "--data",
        str(place / "good"),
        "--perceptual",
        "none",
    ]
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    assert main([*argv, "--json", str(tmp_path / "link.json")]) == 0
    assert (tmp_path / "link.json").is_symlink() and "psnr" in (tmp_path / "real.json").read_text()
    assert main([*argv, "--json", "/dev/null"]) == 0
