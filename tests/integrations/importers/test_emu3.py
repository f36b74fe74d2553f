"""Emu3's video tokenizer on still images, in two dimensions, is the same tokenizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.integrations.importers.published import images, randomised, saved, spread_codes
from vistok.integrations.importers import import_tokenizer


@torch.no_grad()
def latents(model: Any) -> torch.Tensor:
    """What the model compares with its codes, for the images shown as a video that stands still."""
    frames = model.config.temporal_downsample_factor
    video = images().unsqueeze(1).repeat(1, frames, 1, 1, 1)
    result: torch.Tensor = model.quant_conv(model.encoder(video).permute(0, 2, 1, 3, 4))[:, :, 0]
    return result


def emu3(**settings: Any) -> Any:
    from transformers import Emu3VQVAE, Emu3VQVAEConfig

    sizes: dict[str, Any] = {
        "codebook_size": 50,
        "embed_dim": 4,
        "latent_channels": 4,
        "base_channels": 32,
        "channel_multiplier": [1, 2],
        "num_res_blocks": 1,
        "attn_resolutions": [1],
        "hidden_size": 64,
    }
    model = randomised(Emu3VQVAE(Emu3VQVAEConfig(**{**sizes, **settings})))
    spread_codes(model.quantize.embedding, latents(model))
    return model


@pytest.mark.parametrize(
    "settings",
    [{}, {"temporal_downsample_factor": 2}, {"temporal_downsample_factor": 8}, {"num_res_blocks": 2}],
    ids=["four frames", "two frames", "eight frames", "two blocks"],
)
@torch.no_grad()
def test_still_images_have_the_tokens_and_pictures_of_the_video_tokenizer(tmp_path, settings):
    theirs = emu3(**settings)
    ours = import_tokenizer("emu3", saved(theirs, tmp_path))
    x = images()
    encoded = theirs.encode(x, image_sizes=torch.tensor([[32, 48]] * 2))
    tokens = ours.encode(x)
    assert tokens.grid == (16, 24)
    assert torch.equal(tokens.indices[..., 0].unflatten(1, tokens.grid), torch.stack(encoded.image_tokens))
    assert tokens.indices.unique().numel() > 8
    expected = theirs.decode(torch.stack(encoded.image_tokens))
    assert torch.allclose(ours.decode(tokens), expected.clamp(-1, 1), atol=1e-4)
    assert (expected.abs() < 1).float().mean() > 0.5


@torch.no_grad()
def test_latents_before_the_codebook_are_the_same(tmp_path):
    theirs = emu3()
    ours = import_tokenizer("emu3", saved(theirs, tmp_path))
    latent = ours.project_in(ours.encoder(images())).permute(0, 3, 1, 2)
    assert torch.allclose(latent, latents(theirs), atol=1e-4)


@torch.no_grad()
def test_weights_in_half_precision_are_folded_in_float32(tmp_path):
    theirs = emu3().bfloat16()
    ours = import_tokenizer("emu3", saved(theirs, tmp_path))
    latent = ours.project_in(ours.encoder(images())).permute(0, 3, 1, 2)
    assert latent.dtype == torch.float32
    assert torch.allclose(latent, latents(theirs.float()), atol=1e-4)


def test_the_decoder_reads_the_codes_twice(tmp_path):
    """Other codes with the same projection give another picture: the modulation is there."""
    ours = import_tokenizer("emu3", saved(emu3(), tmp_path))
    quantized = torch.randn(1, 4, 4, 4)
    with torch.no_grad():
        pictures = [ours.decoder(quantized, code) for code in (quantized, -quantized)]
    assert (pictures[0] - pictures[1]).abs().max() > 0.1
