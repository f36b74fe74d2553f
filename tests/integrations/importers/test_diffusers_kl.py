"""diffusers' AutoencoderKL and VQModel, imported, are the same autoencoders."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.integrations.importers.published import images, randomised, saved, spread_codes
from vistok.integrations.importers import KINDS, import_tokenizer
from vistok.integrations.importers.keys import logical_names

DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
SIZES: dict[str, Any] = {
    "block_out_channels": (16, 32, 32),
    "down_block_types": (DOWN,) * 3,
    "up_block_types": (UP,) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "latent_channels": 4,
}


def kl(**settings: Any) -> Any:
    from diffusers import AutoencoderKL

    return randomised(AutoencoderKL(**{**SIZES, **settings}))


def vq(**settings: Any) -> Any:
    from diffusers import VQModel

    sizes = {**SIZES, "num_vq_embeddings": 40, "vq_embed_dim": 3, **settings}
    model = randomised(VQModel(**sizes))
    with torch.no_grad():
        spread_codes(model.quantize.embedding, model.encode(images()).latents)
    return model


@pytest.mark.parametrize(
    "settings",
    [
        {"scaling_factor": 0.3},
        {"use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.2, "latent_channels": 16},
        {"mid_block_add_attention": False},
        {"down_block_types": (DOWN, DOWN, "AttnDownEncoderBlock2D"), "layers_per_block": 2},
    ],
    ids=["stable diffusion", "no 1x1 convolutions", "no attention", "attention in the encoder's last level"],
)
@torch.no_grad()
def test_latents_and_pictures_are_those_of_autoencoder_kl(tmp_path, settings):
    theirs = kl(**settings)
    ours = import_tokenizer("diffusers-kl", saved(theirs, tmp_path))
    x = images()
    posterior = theirs.encode(x).latent_dist
    moments = ours.moments(x)
    mean, deviation = moments.latents.unflatten(1, moments.grid).permute(0, 3, 1, 2).chunk(2, dim=1)
    shift, scale = theirs.config.shift_factor or 0.0, theirs.config.scaling_factor
    assert torch.allclose(mean, (posterior.mean - shift) * scale, atol=1e-4)
    assert torch.allclose(deviation, posterior.std * scale, atol=1e-4)
    expected = theirs.decode(posterior.mode()).sample
    assert torch.allclose(ours.decode(ours.encode(x)), expected.clamp(-1, 1), atol=1e-4)
    assert (expected.abs() < 1).float().mean() > 0.5


@torch.no_grad()
def test_the_early_names_of_attention_are_understood(tmp_path):
    theirs = kl()
    early = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for key, value in theirs.state_dict().items():
        for late, name in early.items():
            key = key.replace(f".{late}.", f".{name}.")
        state[key] = value.clone()
    theirs.save_config(tmp_path)
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    ours = import_tokenizer("diffusers-kl", tmp_path)
    expected = theirs.encode(images()).latent_dist.mean * theirs.config.scaling_factor
    assert torch.allclose(
        ours.encode(images()).latents.unflatten(1, (8, 12)).permute(0, 3, 1, 2), expected, atol=1e-4
    )


def test_latent_diffusions_own_file_is_the_same_model_under_other_names(tmp_path):
    theirs = kl(norm_num_groups=32, block_out_channels=(32, 32, 64))
    state = {key: value.clone() for key, value in theirs.state_dict().items()}
    save_file(state, tmp_path / "vae.safetensors")
    ours = import_tokenizer("diffusers-kl", tmp_path / "vae.safetensors")
    early, late = KINDS["ldm-kl"].keys, KINDS["diffusers-kl"].keys
    renamed = {
        there: state[here].reshape(
            *state[here].shape,
            *((1, 1) if ".attn" in there and "weight" in there and "norm" not in there else ()),
        )
        for name, logical in logical_names(ours, early.finest_first).items()
        for there, here in zip(
            early.theirs(logical), late.theirs(logical_names(ours, False)[name]), strict=True
        )
    }
    renamed["loss.logvar"] = torch.zeros(())
    torch.save({"model": renamed}, tmp_path / "kl16.ckpt")
    again = import_tokenizer("ldm-kl", tmp_path / "kl16.ckpt")
    assert renamed["decoder.up.0.block.0.conv1.weight"].shape[0] == 32  # counted from the finest level
    assert torch.equal(again.encode(images()).latents, ours.encode(images()).latents)
    assert torch.equal(again.decode(ours.encode(images())), ours.decode(ours.encode(images())))


def test_a_file_alone_has_no_scale(tmp_path):
    theirs = kl(norm_num_groups=32, block_out_channels=(32, 32, 64))
    save_file(
        {key: value.clone() for key, value in theirs.state_dict().items()}, tmp_path / "vae.safetensors"
    )
    ours = import_tokenizer("diffusers-kl", tmp_path / "vae.safetensors")
    assert ours.spec.latents.scale == (1.0,) * 4
    with torch.no_grad():
        mean = theirs.encode(images()).latent_dist.mean
    assert torch.allclose(
        ours.encode(images()).latents.unflatten(1, (8, 12)).permute(0, 3, 1, 2), mean, atol=1e-4
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"block_out_channels": (32, 32, 64), "norm_num_groups": 32, "norm_type": "spatial", "vq_embed_dim": 4}
        | {"down_block_types": (DOWN, DOWN, "AttnDownEncoderBlock2D")}
        | {"up_block_types": ("AttnUpDecoderBlock2D", UP, UP)},
    ],
    ids=["group", "spatial, as Kandinsky's MoVQ"],
)
@torch.no_grad()
def test_tokens_and_pictures_are_those_of_vq_model(tmp_path, settings):
    theirs = vq(**settings)
    ours = import_tokenizer("diffusers-vq", saved(theirs, tmp_path))
    x = images()
    latents = theirs.encode(x).latents
    _, _, (_, _, indices) = theirs.quantize(latents)
    tokens = ours.encode(x)
    assert torch.equal(tokens.indices.flatten(), indices) and indices.unique().numel() > 8
    expected = theirs.decode(latents).sample
    assert torch.allclose(ours.decode(tokens), expected.clamp(-1, 1), atol=1e-4)
    assert (expected.abs() < 1).float().mean() > 0.5
    assert ours.decoder.modulated == bool(settings)
