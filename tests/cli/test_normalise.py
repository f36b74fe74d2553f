"""``vistok normalise`` on a real, tiny tokenizer."""

from __future__ import annotations

import pytest

from tests.training.parts import make_tokenizer
from vistok import load
from vistok.cli import main
from vistok.quantizers import FSQ, Gaussian


@pytest.fixture
def folder(tmp_path):
    make_tokenizer(Gaussian(4)).save(tmp_path / "t")
    return tmp_path / "t"


def test_it_writes_the_tokenizer_again(folder, capsys):
    argv = ["normalise", "--tokenizer", str(folder), "--data", "procedural:3:16"]
    assert main(argv) == 0
    first = load(folder).spec
    assert len(set(first.latents.scale)) == 4 and first.provenance["latent_statistics"] == {
        "images": 3,
        "per": "channel",
    }
    assert "4 means in [" in capsys.readouterr().out
    assert main([*argv, "--per", "element", "--batch-size", "2"]) == 0
    assert load(folder).spec.latents.grid == (8, 8)
    assert main([*argv, "--per", "all", "--out", f"{folder}2"]) == 0
    assert len(set(load(f"{folder}2").spec.latents.scale)) == 1 and load(folder).spec.latents.grid == (8, 8)


def test_a_discrete_tokenizer_and_mixed_sizes_are_refused_and_nothing_is_written(folder, tmp_path, capsys):
    from PIL import Image

    make_tokenizer(FSQ((4, 3))).save(tmp_path / "fsq")
    assert main(["normalise", "--tokenizer", str(tmp_path / "fsq"), "--data", "procedural:3:16"]) == 1
    assert "is discrete: it has no latents to normalise" in capsys.readouterr().err
    (tmp_path / "images").mkdir()
    for side in (16, 24):
        Image.new("RGB", (side, side)).save(tmp_path / "images" / f"{side}.png")
    before = load(folder).spec
    argv = ["normalise", "--tokenizer", str(folder), "--data", str(tmp_path / "images"), "--per", "element"]
    assert main(argv) == 1
    assert "set --size" in capsys.readouterr().err and load(folder).spec == before
