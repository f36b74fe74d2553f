"""Importing is strict: whatever is missing, left over or does not fit is told in one line, by its name."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.integrations.importers.test_vqgan import janus
from tests.recipes.test_recipes import instantiate
from tests.recipes.test_twins import TWINS
from vistok.errors import TokenizerError
from vistok.integrations.importers import KINDS, import_tokenizer
from vistok.integrations.importers.checkpoint import Checkpoint
from vistok.integrations.importers.diffusers_rae import choose_keys
from vistok.integrations.importers.keys import KeyMap, sources
from vistok.tokenizer.weights_hash import exported_state
from vistok.training.recipe import read_recipe


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    return {key: value.clone() for key, value in janus().state_dict().items()}


def refusal(state: dict[str, Any], folder: Path, kind: str = "janus") -> str:
    save_file(state, folder / "w.safetensors")
    with pytest.raises(TokenizerError) as told:
        import_tokenizer(kind, folder / "w.safetensors")
    message = str(told.value)
    assert "\n" not in message and message.startswith(
        f"{folder / 'w.safetensors'} cannot be imported as {kind}: "
    )
    return message.partition(": ")[2]


@pytest.mark.parametrize(
    "key",
    [
        "encoder.conv_in.weight",
        "encoder.down.0.block.0.norm2.bias",
        "encoder.down.0.block.0.conv1.weight",
        "encoder.mid.attn_1.v.weight",
        "decoder.up.2.block.1.conv2.weight",
        "decoder.conv_out.bias",
        "quantize.embedding.weight",
    ],
)
def test_a_missing_key_is_named(state, tmp_path, key):
    assert key in refusal({k: v for k, v in state.items() if k != key}, tmp_path)


def test_a_missing_layer_is_no_smaller_model(state, tmp_path):
    """Projections are optional in some kinds: without one the channels do not meet, which is told."""
    without = {key: value for key, value in state.items() if not key.startswith("post_quant_conv")}
    assert "ConvDecoder expects 12 channels, 6 arrive" in refusal(without, tmp_path)


def test_a_key_that_nothing_uses_is_named_and_others_counted(state, tmp_path):
    told = refusal({**state, "extra.a": torch.zeros(2), "extra.b": torch.zeros(2)}, tmp_path)
    assert told == "nothing uses its key extra.a (and 1 more)"


def test_a_shape_that_does_not_fit_is_told_with_both(state, tmp_path):
    told = refusal({**state, "decoder.norm_out.weight": torch.ones(7)}, tmp_path)
    assert told == "decoder.norm_out.weight has shape (7,), which does not fit decoder.norm_out.weight, (32,)"


def test_weights_that_are_not_finite_are_refused(state, tmp_path):
    told = refusal({**state, "decoder.norm_out.weight": torch.full((32,), torch.nan)}, tmp_path)
    assert told == "decoder.norm_out.weight holds NaN or Inf"


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"janus"}))
def test_the_wrong_kind_is_told_for_every_kind(state, tmp_path, kind):
    # Chameleon's names are Janus', the order of the decoder's levels is not
    told = refusal(state, tmp_path, kind)
    assert "lacks" in told or "fit" in told or "channels" in told


@pytest.mark.parametrize(
    ("kind", "recipe"), [("chameleon", "chameleon_vq"), ("janus", "llamagen_vq16"), ("emu3", "emu3_image")]
)
def test_at_full_size_a_checkpoint_gives_the_network_of_the_recipe(kind, recipe):
    """Names and shapes alone, without memory: every key is used, every parameter has its source."""
    model = read_recipe([recipe])["model"]["tokenizer"]
    with torch.device("meta"):
        twin = TWINS[recipe]()
        checkpoint = Checkpoint("twin", kind, twin.state_dict())
        if KINDS[kind].fold is not None:
            checkpoint = KINDS[kind].fold(checkpoint)
        ours = KINDS[kind].build(checkpoint, KINDS[kind].keys)
        assert len(sources(ours, checkpoint, KINDS[kind].keys)) == len(exported_state(ours))
    made, wanted = ours.to_config()["args"], instantiate(model).to_config()["args"]
    for part in ("encoder", "project_in", "project_out", *(["decoder"] if ours.decoder is not None else [])):
        assert made[part] == wanted[part], part
    assert (ours.quantizer.codebook_size, ours.quantizer.dim) == (
        wanted["quantizer"]["args"]["codebook_size"],
        wanted["quantizer"]["args"]["dim"],
    )


def test_the_names_of_older_transformers_are_understood_in_dinov2():
    keys = KINDS["diffusers-rae"].keys
    name = "encoder.encoder.model.blocks.3.attn.qkv.weight"
    assert keys.theirs(name)[1] == "encoder.encoder.layer.3.attention.k_proj.weight"
    early = "encoder.encoder.layer.0.attention.attention.query.weight"
    checkpoint = Checkpoint("folder", "diffusers-rae", {early: torch.zeros(1)})
    assert (
        choose_keys(checkpoint, keys).theirs(name)[1]
        == "encoder.encoder.layer.3.attention.attention.key.weight"
    )


def test_an_unknown_kind_lists_those_that_there_are(tmp_path):
    with pytest.raises(
        TokenizerError, match=r"no importer for 'vqgan': choose one of chameleon, diffusers-dc-ae"
    ):
        import_tokenizer("vqgan", tmp_path)


class _Runs:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (print, ("this must never be printed",))


def test_a_pickle_with_code_in_it_is_not_run(tmp_path, capsys):
    (tmp_path / "w.pt").write_bytes(pickle.dumps({"model": _Runs()}, protocol=2))
    with pytest.raises(TokenizerError, match=r"the weights in .*w\.pt cannot be read"):
        import_tokenizer("janus", tmp_path / "w.pt")
    assert "never" not in capsys.readouterr().out


def test_what_is_no_checkpoint_is_told(tmp_path):
    def refused(match: str) -> None:
        with pytest.raises(TokenizerError, match=match):
            import_tokenizer("janus", tmp_path)

    with pytest.raises(TokenizerError, match="there is no file of weights at"):
        import_tokenizer("janus", tmp_path / "nothing")
    refused(r"has no config\.json: give the folder that save_pretrained wrote")
    (tmp_path / "config.json").write_text("{")
    refused(r"config\.json cannot be read")
    (tmp_path / "config.json").write_text("[]")
    refused("holds list, not settings by name")
    (tmp_path / "config.json").write_text("{}")
    refused("has no file of weights: none ends in .safetensors")
    for name in ("a", "b"):
        save_file({"x": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    refused(r"holds 2 files of weights, a\.safetensors and b\.safetensors among them")
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "../x.safetensors"}})
    )
    refused("names a shard outside itself")
    torch.save({"model": {"a": torch.zeros(1), "b": 3}}, tmp_path / "w.pt")
    with pytest.raises(TokenizerError, match="is no state dict: 'b' is int, not a tensor"):
        import_tokenizer("janus", tmp_path / "w.pt")


def test_a_key_map_replaces_the_beginning_and_then_each_component():
    keys = KeyMap(
        {"a.{level}.b.{block}": "x.{block}.y.{level}", "a.{level}.both": "p.{level} q.{level}", "end": "fin"},
        {"qkv": "q k v", "skip": "shortcut"},
    )
    assert keys.theirs("a.1.b.2.skip.weight") == ["x.2.y.1.shortcut.weight"]
    assert keys.theirs("a.1.b.2.qkv.bias") == ["x.2.y.1.q.bias", "x.2.y.1.k.bias", "x.2.y.1.v.bias"]
    assert keys.theirs("a.1.both.weight") == ["p.1.weight", "q.1.weight"]
    assert keys.theirs("end") == ["fin"] and keys.theirs("ending") == [] and keys.theirs("a.1.c") == []
