"""``vistok import``: one line for what was made, one line for what is wrong."""

import pytest

from tests.integrations.importers.published import saved
from tests.integrations.importers.test_diffusers_kl import kl
from tests.integrations.importers.test_vqgan import janus
from vistok import load
from vistok.cli import main
from vistok.cli.importing import KINDS


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return str(saved(janus(), tmp_path_factory.mktemp("janus") / "checkpoint"))


def test_help_names_the_kinds_that_there_are(capsys):
    from vistok.integrations import importers

    assert set(KINDS) == set(importers.KINDS)
    assert main(["import", "--help"]) == 0
    told = capsys.readouterr().out
    assert all(kind in told for kind in KINDS)


def test_a_checkpoint_becomes_a_tokenizer_that_info_tells_of(source, tmp_path, capsys):
    out = str(tmp_path / "mine")
    assert main(["import", "--from", "janus", source, out, "--name", "mine", "--licence", "MIT"]) == 0
    assert capsys.readouterr().out.startswith("mine: ")
    assert main(["info", out]) == 0
    told = capsys.readouterr().out
    assert "mine (discrete)" in told and "MIT" in told and "cosine" in told
    assert "imported from" in told and "janus" in told


def test_the_scale_of_latents_is_told_where_no_config_tells_it(source, tmp_path, capsys):
    from safetensors.torch import save_file

    file, out = str(tmp_path / "vae.safetensors"), str(tmp_path / "vae")
    state = kl(block_out_channels=(32, 32, 64), norm_num_groups=32).state_dict()
    save_file({key: value.clone() for key, value in state.items()}, file)
    argv = ["import", "--from", "diffusers-kl", file, out, "--scale", "0.25"]
    assert main([*argv, "--shift", "-0.5"]) == 0
    latents = load(out).spec.latents
    assert (latents.shift, latents.scale) == ((-0.5,) * 4, (0.25,) * 4)
    capsys.readouterr()
    assert main([*argv[:-1], "-1"]) == 1
    assert main(["import", "--from", "janus", source, str(tmp_path / "j"), "--scale", "2"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert "the scale of latents is -1.0: it must be above 0" in told[0]
    assert "janus is discrete: it has no latents to scale or shift" in told[1]


def test_mistakes_are_one_line(source, tmp_path, capsys):
    out = str(tmp_path / "mine")
    assert main(["import", "--from", "vqgan", source, out]) == 2
    assert main(["import", "--from", "emu3", source, out]) == 1
    assert main(["import", "--from", "janus", str(tmp_path / "nothing"), out]) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3 and all(line.startswith("vistok: error: ") for line in told)
    assert "cannot be imported as emu3: " in told[1] and "no file of weights" in told[2]
    assert not (tmp_path / "mine").exists()


def test_a_folder_that_holds_something_else_is_left_alone(source, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["import", "--from", "janus", source, str(tmp_path)]) == 1
    assert "is not a tokenizer: choose another folder" in capsys.readouterr().err
