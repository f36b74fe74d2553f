"""``vistok try`` as a user calls it."""

import json

import pytest
import torch

from vistok import Tokenizer
from vistok.backbones import ConvDecoder, ConvEncoder
from vistok.cli import main
from vistok.cli.downstream import NAMES
from vistok.downstream import BACKBONES
from vistok.quantizers import FSQ


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    sizes = {"channels": 8, "multipliers": [1, 2], "num_res_blocks": 1, "patch": 4}
    folder = tmp_path_factory.mktemp("try")
    Tokenizer(ConvEncoder(dim=3, **sizes), FSQ((5, 5, 5)), ConvDecoder(dim=3, **sizes), name="small").save(
        folder / "tokenizer"
    )
    return folder


def arguments(folder, backbone, *more):
    data = ["--data", "procedural:10:32", "--size", "32", "--seconds", "0.5", "--samples", "2"]
    return ["try", "--tokenizer", str(folder / "tokenizer"), "--backbone", backbone, *data, *more]


def test_the_names_on_the_command_line_are_those_of_the_backbones():
    assert tuple(BACKBONES) == NAMES


def test_a_backbone_is_swapped_by_a_flag_and_each_leaves_a_page(folder, capsys):
    for backbone in ("ar", "masked"):
        assert main(arguments(folder, backbone, "--out", str(folder / "out"))) == 0
        told = capsys.readouterr().out
        assert "bits/image" in told and "unigram" in told
        assert (folder / "out" / backbone / "report.html").is_file()
        assert len(list((folder / "out" / backbone / "samples").glob("*.png"))) == 2


def test_json_is_all_that_is_printed(folder, capsys):
    assert main(arguments(folder, "ar", "--out", str(folder / "json"), "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bits_per_image"] > 0 and told["baselines"]["unigram"] > 0


def test_what_does_not_fit_is_told_in_one_line_before_anything_is_written(folder, capsys):
    assert main(arguments(folder, "diffusion", "--out", str(folder / "none"))) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "choose ar or masked" in told
    assert not (folder / "none").exists()


def test_steps_alone_give_the_same_numbers_again(folder, capsys):
    data = ["--data", "procedural:6:32", "--size", "32", "--samples", "1", "--steps", "3", "--json"]
    told = []
    for out in ("a", "b"):
        to = ["--out", str(folder / out)]
        assert main(["try", "--tokenizer", str(folder / "tokenizer"), "--backbone", "ar", *data, *to]) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0]["points"][-1]["step"] == 3 and told[0]["loss"] == told[1]["loss"]
