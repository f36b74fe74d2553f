"""diffusers' AutoencoderDC, imported, is the same autoencoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.integrations.importers.published import images, randomised, saved
from vistok.integrations.importers import import_tokenizer

RES, VIT = "ResBlock", "EfficientViTBlock"


def dc_ae(**settings: Any) -> Any:
    from diffusers import AutoencoderDC

    sizes: dict[str, Any] = {
        "latent_channels": 4,
        "attention_head_dim": 8,
        "encoder_block_types": (RES, RES, VIT),
        "decoder_block_types": (RES, RES, VIT),
        "encoder_block_out_channels": (8, 16, 32),
        "decoder_block_out_channels": (8, 16, 32),
        "encoder_layers_per_block": (1, 1, 2),
        "decoder_layers_per_block": (2, 1, 1),
        "encoder_qkv_multiscales": ((), (), (5,)),
        "decoder_qkv_multiscales": ((), (), (5,)),
        "scaling_factor": 0.4,
    }
    return randomised(AutoencoderDC(**{**sizes, **settings}))


@pytest.mark.parametrize(
    "settings",
    [
        {"downsample_block_type": "conv", "upsample_block_type": "interpolate"},
        {
            "encoder_layers_per_block": (0, 1, 1),
            "decoder_layers_per_block": (0, 2, 1),
            "encoder_qkv_multiscales": ((), (), ()),
            "decoder_qkv_multiscales": ((), (), ()),
            "decoder_norm_types": ("batch_norm", "batch_norm", "rms_norm"),
            "decoder_act_fns": ("relu", "relu", "silu"),
        },
    ],
    ids=["sana", "imagenet"],
)
@torch.no_grad()
def test_latents_and_pictures_are_those_of_autoencoder_dc(tmp_path, settings):
    theirs = dc_ae(**settings)
    ours = import_tokenizer("diffusers-dc-ae", saved(theirs, tmp_path))
    x = images()
    latent = theirs.encode(x).latent
    encoded = ours.encode(x)
    mine = encoded.latents.unflatten(1, encoded.grid).permute(0, 3, 1, 2)
    assert torch.allclose(mine, latent * 0.4, atol=1e-4)
    expected = theirs.decode(latent).sample
    assert torch.allclose(ours.decode(encoded), expected.clamp(-1, 1), atol=1e-4)
    assert (expected.abs() < 1).float().mean() > 0.3


def test_what_is_not_there_is_told(tmp_path):
    from vistok.errors import TokenizerError

    with pytest.raises(TokenizerError, match="level 0 of its decoder has gelu, vistok has silu alone there"):
        import_tokenizer("diffusers-dc-ae", saved(dc_ae(decoder_act_fns="gelu"), tmp_path))
