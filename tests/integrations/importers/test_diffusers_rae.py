"""diffusers' AutoencoderRAE, imported, is the same autoencoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.integrations.importers.published import images, randomised, saved
from vistok.errors import TokenizerError
from vistok.integrations.importers import import_tokenizer

RAE = getattr(pytest.importorskip("diffusers"), "AutoencoderRAE", None)
pytestmark = pytest.mark.skipif(RAE is None, reason="this diffusers has no AutoencoderRAE")


@pytest.fixture(scope="module")
def theirs() -> Any:
    """DINOv2-S, the smallest that timm has, on four patches by four, with a tiny decoder."""
    model = RAE(
        encoder_hidden_size=384,
        decoder_hidden_size=32,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=72,
        encoder_input_size=56,
        latents_mean=torch.randn(384, 4, 4).tolist(),
        latents_std=(torch.rand(384, 4, 4) + 0.5).tolist(),
        noise_tau=0.8,
    )
    mean, std = model.encoder_mean.clone(), model.encoder_std.clone()
    latents = model._latents_mean.clone(), model._latents_std.clone()
    positions = model.decoder.decoder_pos_embed.clone()
    randomised(model)
    model.encoder_mean.copy_(mean)
    model.encoder_std.copy_(std)
    model._latents_mean.copy_(latents[0])
    model._latents_std.copy_(latents[1])
    model.decoder.decoder_pos_embed.copy_(positions)
    return model


@torch.no_grad()
def test_latents_and_pictures_are_those_of_autoencoder_rae(theirs, tmp_path):
    ours = import_tokenizer("diffusers-rae", saved(theirs, tmp_path))
    x = images(64, 64)
    latent = theirs.encode((x + 1) / 2).latent
    encoded = ours.encode(x)
    assert encoded.grid == (4, 4) and ours.spec.image.size == (64, 64)
    mine = encoded.latents.unflatten(1, encoded.grid).permute(0, 3, 1, 2)
    assert torch.allclose(mine, latent, atol=1e-4)
    expected = theirs.decode(latent).sample * 2 - 1
    assert torch.allclose(ours.decode(encoded), expected.clamp(-1, 1), atol=1e-4)
    assert (expected.abs() < 1).float().mean() > 0.3
    assert ours.spec.latents.grid == (4, 4)  # statistics per element, as the published ones


def test_other_encoders_are_refused(tmp_path):
    model = RAE(
        encoder_type="mae",
        encoder_hidden_size=64,
        encoder_patch_size=16,
        encoder_num_hidden_layers=1,
        decoder_hidden_size=32,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        encoder_input_size=32,
    )
    with pytest.raises(TokenizerError, match=r"encoder_type is 'mae' in its config\.json"):
        import_tokenizer("diffusers-rae", saved(model, tmp_path))
