"""The commands on a real, tiny tokenizer: train, encode, verify, decode, evaluate, tell."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
from PIL import Image

from vistok.cli import main


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    argv = ["fit", "--config", "demo", "--config", "tiny", "--data.size", "32"]
    assert main([*argv, "--trainer.default_root_dir", str(folder), "--trainer.max_steps=2"]) == 0
    return folder


def test_images_go_to_shards_and_back(run_folder, tmp_path, capsys):
    tokenizer = ["--tokenizer", str(run_folder / "tokenizer")]
    shards = str(tmp_path / "shards")
    encode = [
        "encode",
        *tokenizer,
        "--data",
        "procedural:5:32",
        "--out",
        shards,
        "--shard-size",
        "2",
        "--batch-size",
        "2",
    ]
    assert main(encode) == 0
    capsys.readouterr()
    assert main(["verify", shards, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["num_samples"], report["problems"]) == (True, 5, [])
    assert main(["decode", *tokenizer, "--shards", shards, "--out", str(tmp_path / "png"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_images"] == 5
    assert len(list((tmp_path / "png").rglob("*.png"))) == 5
    damaged = next((tmp_path / "shards").glob("shard-*.arrow"))
    damaged.write_bytes(damaged.read_bytes()[:-700])
    capsys.readouterr()
    assert main(["verify", shards]) == 1
    assert damaged.name in capsys.readouterr().err
    assert main(["verify", shards, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"] and damaged.name in report["problems"][0]


def test_tars_that_number_images_alike_go_with_their_names(run_folder, tmp_path, capsys):
    for name in ("a", "b"):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for number in range(2):
                stream = io.BytesIO()
                Image.new("RGB", (32, 32), (number, 0, 0)).save(stream, "PNG")
                member = tarfile.TarInfo(f"{number}.png")
                member.size = stream.tell()
                stream.seek(0)
                tar.addfile(member, stream)
    tokenizer = ["--tokenizer", str(run_folder / "tokenizer")]
    argv = [*tokenizer, "--data", str(tmp_path / "{a,b}.tar")]
    shards = str(tmp_path / "shards")
    assert main(["encode", *argv, "--out", shards]) == 1
    assert "give --prefix-keys" in capsys.readouterr().err
    assert main(["encode", *argv, "--prefix-keys", "--out", shards, "--shard-size", "2"]) == 0
    assert json.loads((tmp_path / "shards" / "plan.json").read_text())["keys"] == ["a/0", "a/1", "b/0", "b/1"]
    next((tmp_path / "shards").glob("shard-*1.arrow")).unlink()
    assert main(["repair", shards, *argv, "--prefix-keys"]) == 0
    assert main(["verify", shards]) == 0
    assert main(["encode", *tokenizer, "--data", "procedural:2:32", "--prefix-keys", "--out", shards]) == 1
    assert "leave out --prefix-keys" in capsys.readouterr().err


def test_eval_prints_a_table_and_writes_json(run_folder, tmp_path, capsys):
    target = tmp_path / "result.json"
    argv = [
        "eval",
        "--tokenizer",
        str(run_folder / "tokenizer"),
        "--data",
        "procedural:2:32",
        "--json",
        str(target),
    ]
    assert main([*argv, "--perceptual", "none"]) == 0
    assert "psnr" in capsys.readouterr().out
    assert json.loads(target.read_text())["metrics"]["psnr"]["value"] > 0


def test_info_tells_what_the_tokenizer_is(run_folder, capsys):
    folder = str(run_folder / "tokenizer")
    assert main(["info", folder]) == 0
    told = capsys.readouterr().out
    assert "demo (discrete)" in told and "K = 32" in told and "VQ" in told
    assert main(["info", folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "demo"


def test_validate_reads_the_checkpoint(run_folder, capsys):
    argv = ["validate", "--config", "demo", "--config", "tiny", "--trainer.default_root_dir", str(run_folder)]
    assert main([*argv, "--ckpt_path", str(run_folder / "checkpoints" / "last.ckpt")]) == 0
    assert "val/psnr" in capsys.readouterr().out


def test_print_config_shows_the_merged_recipe(capsys):
    assert main(["fit", "--config", "vqgan_f16", "--config", "tiny", "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert "max_steps: 6" in printed and "codebook_size: 32" in printed


def test_a_device_that_is_not_here_is_told(run_folder, capsys):
    assert (
        main(
            ["eval", "--tokenizer", str(run_folder / "tokenizer"), "--data", "photos", "--device", "cuda:77"]
        )
        == 1
    )
    assert "cuda:77" in capsys.readouterr().err
