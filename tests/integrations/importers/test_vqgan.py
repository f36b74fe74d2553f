"""Chameleon's, Janus' and LlamaGen's tokenizers, imported, are the same tokenizers."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.integrations.importers.published import images, randomised, saved, spread_codes
from vistok import load
from vistok.integrations.importers import import_tokenizer

SIZES: dict[str, Any] = {
    "base_channels": 32,
    "channel_multiplier": [1, 2, 2],
    "num_res_blocks": 1,
    "latent_channels": 12,
    "embed_dim": 6,
    "num_embeddings": 40,
}


@torch.no_grad()
def chameleon(**settings: Any) -> Any:
    from transformers import ChameleonVQVAE, ChameleonVQVAEConfig

    model = randomised(ChameleonVQVAE(ChameleonVQVAEConfig(**{**SIZES, "resolution": 32, **settings})))
    spread_codes(model.quantize.embedding, model.quant_conv(model.encoder(images())))
    return model


@torch.no_grad()
def janus(length_one: bool = True) -> Any:
    from transformers import JanusVQVAE, JanusVQVAEConfig

    model = randomised(JanusVQVAE(JanusVQVAEConfig(**SIZES, num_patches=8)))
    spread_codes(model.quantize.embedding, model.quant_conv(model.encoder(images())), length_one)
    return model


@pytest.mark.parametrize(
    "settings", [{}, {"attn_resolutions": [16, 8]}, {"attn_type": "none"}], ids=["middle", "levels", "none"]
)
@torch.no_grad()
def test_chameleons_tokens_are_transformers_own(tmp_path, settings):
    theirs = chameleon(**settings)
    ours = import_tokenizer("chameleon", saved(theirs, tmp_path))
    x = images()
    encoded = theirs.encode(x)
    tokens = ours.encode(x)
    assert torch.equal(tokens.indices.flatten(), encoded.image_tokens)
    assert tokens.indices.unique().numel() > 8 and tokens.grid == (8, 12)
    assert torch.allclose(ours.encoder(x).permute(0, 3, 1, 2), encoded.last_hidden_state, atol=1e-4)
    quantized = ours.embed(tokens).unflatten(1, tokens.grid).permute(0, 3, 1, 2)
    assert torch.allclose(quantized, encoded.quantized_last_hidden_state, atol=1e-4)
    assert ours.decoder is None  # transformers leaves it out


@torch.no_grad()
def test_chameleons_own_file_has_its_decoder_too(tmp_path):
    """Meta's names are taming-transformers', whose decoder counts levels from the finest."""
    encoder, whole = chameleon(), janus()
    decoder = {key: value for key, value in whole.state_dict().items() if key.startswith("decoder.")}
    state = {**encoder.state_dict(), **decoder}
    levels = len(SIZES["channel_multiplier"])
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[:2] == ["decoder", "up"]:
            parts[2] = str(levels - 1 - int(parts[2]))
        renamed[".".join(parts)] = value
    renamed["loss.discriminator.main.0.weight"] = torch.zeros(3)
    torch.save({"state_dict": renamed}, tmp_path / "vqgan.ckpt")
    ours = import_tokenizer("chameleon", tmp_path / "vqgan.ckpt", name="mine")
    assert ours.spec.name == "mine" and ours.decoder is not None
    x = images()
    indices = ours.encode(x).indices
    assert torch.equal(indices.flatten(), encoder.encode(x).image_tokens)
    quantized = encoder.quantize.embedding(indices[..., 0]).unflatten(1, (8, 12)).permute(0, 3, 1, 2)
    expected = whole.decoder(encoder.post_quant_conv(quantized)).clamp(-1, 1)
    assert torch.allclose(ours.decode(indices=indices, grid=(8, 12)), expected, atol=1e-4)


@torch.no_grad()
def test_janus_tokens_and_pictures_are_transformers_own(tmp_path):
    theirs = janus()
    ours = import_tokenizer("janus", saved(theirs, tmp_path))
    x = images(32, 32)
    indices = ours.encode(x).indices
    assert torch.equal(indices.flatten(), theirs.encode(x).image_tokens)
    picture = ours.decode(indices=indices)
    expected = theirs.decode(indices[..., 0])
    assert torch.allclose(picture, expected.clamp(-1, 1), atol=1e-4)
    assert (expected.abs() < 1).float().mean() > 0.5  # or the clamp would hide differences


@torch.no_grad()
def test_codes_are_chosen_by_the_cosine_as_llamagen_chooses_them(tmp_path):
    """transformers compares unscaled vectors when it encodes, though it decodes scaled ones: it agrees at length 1 alone."""
    theirs, x = janus(length_one=False), images()
    ours = import_tokenizer("janus", saved(theirs, tmp_path))
    latents = torch.nn.functional.normalize(theirs.quant_conv(theirs.encoder(x)), dim=1)
    codes = torch.nn.functional.normalize(theirs.quantize.embedding.weight, dim=1)
    chosen = torch.einsum("bdhw,kd->bhwk", latents, codes).argmax(-1).flatten()
    assert torch.equal(ours.encode(x).indices.flatten(), chosen)
    assert not torch.equal(theirs.encode(x).image_tokens, chosen)


@torch.no_grad()
def test_codes_of_any_length_decode_as_in_transformers(tmp_path):
    theirs = janus(length_one=False)
    ours = import_tokenizer("janus", saved(theirs, tmp_path))
    indices = torch.randint(SIZES["num_embeddings"], (2, 64, 1))
    assert torch.allclose(
        ours.decode(indices=indices), theirs.decode(indices[..., 0]).clamp(-1, 1), atol=1e-4
    )


@torch.no_grad()
def test_llamagens_file_is_the_same_model_under_other_names(tmp_path):
    state = {}
    for key, value in janus().state_dict().items():
        key = (
            key.replace("block.", "res.").replace(".down.", ".conv_blocks.").replace(".up.", ".conv_blocks.")
        )
        for place, number in (("mid.block_1", "mid.0"), ("mid.attn_1", "mid.1"), ("mid.block_2", "mid.2")):
            key = key.replace(place, number)
        state[key] = value.clone()
    state["quantize.codebook_used"] = torch.zeros(65536)
    torch.save({"model": state, "args": argparse.Namespace(vq_model="VQ-16")}, tmp_path / "vq.pt")
    mine = import_tokenizer("llamagen", tmp_path / "vq.pt")
    other = import_tokenizer("janus", saved(janus(), tmp_path / "janus"))
    x = images()
    tokens = mine.encode(x)
    assert torch.equal(tokens.indices, other.encode(x).indices)
    assert torch.equal(mine.decode(tokens), other.decode(tokens))


@torch.no_grad()
def test_a_tokenizer_inside_a_whole_model_is_found(tmp_path):
    """Only the shard that holds it is read: the other does not exist."""
    import json

    theirs = chameleon()
    state = {f"model.vqmodel.{key}": value.clone() for key, value in theirs.state_dict().items()}
    save_file(state, tmp_path / "model-00002-of-00002.safetensors")
    places = {**dict.fromkeys(state, "model-00002-of-00002.safetensors")}
    places["model.layers.0.mlp.weight"] = "model-00001-of-00002.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (tmp_path / "config.json").write_text(json.dumps({"vq_config": theirs.config.to_dict()}))
    ours = import_tokenizer("chameleon", tmp_path)
    assert torch.equal(ours.encode(images()).indices.flatten(), theirs.encode(images()).image_tokens)


def test_what_was_imported_is_saved_and_loaded_as_any_tokenizer(tmp_path):
    ours = import_tokenizer("janus", saved(janus(), tmp_path / "theirs"), licence="MIT")
    ours.save(tmp_path / "ours")
    again = load(tmp_path / "ours")
    assert again.spec == ours.spec and again.spec.licence == "MIT"
    assert again.spec.provenance == {"imported_from": "janus", "checkpoint": "theirs"}
    assert torch.equal(again.encode(images()).indices, ours.encode(images()).indices)


def test_importing_draws_nothing_from_the_callers_random_numbers(tmp_path):
    folder = saved(janus(), tmp_path)
    torch.manual_seed(3)
    before = torch.rand(1)
    torch.manual_seed(3)
    import_tokenizer("janus", folder)
    assert torch.equal(torch.rand(1), before)
