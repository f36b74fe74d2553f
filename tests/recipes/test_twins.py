"""At full size a recipe has as many parameters as the same model in transformers or diffusers, within 1 %."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.recipes.test_recipes import instantiate, set_everywhere
from vistok.training.recipe import read_recipe

DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"


def chameleon() -> Any:
    from transformers import ChameleonVQVAE, ChameleonVQVAEConfig

    return ChameleonVQVAE(ChameleonVQVAEConfig())


def janus() -> Any:
    from transformers import JanusVQVAE, JanusVQVAEConfig

    return JanusVQVAE(JanusVQVAEConfig())


def emu3() -> Any:
    from transformers import Emu3VQVAE, Emu3VQVAEConfig

    return Emu3VQVAE(Emu3VQVAEConfig())


def kl(widths: tuple[int, ...], latent_channels: int, **settings: Any) -> Any:
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": (DOWN,) * len(widths), "up_block_types": (UP,) * len(widths)}
    return AutoencoderKL(
        block_out_channels=widths,
        layers_per_block=2,
        latent_channels=latent_channels,
        **{**blocks, **settings},
    )


def dc_ae() -> Any:
    from diffusers import AutoencoderDC

    types = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    return AutoencoderDC(
        encoder_block_types=types,
        decoder_block_types=types,
        encoder_layers_per_block=(0, 4, 8, 2, 2, 2),
        decoder_layers_per_block=(0, 5, 10, 2, 2, 2),
        encoder_qkv_multiscales=((),) * 6,
        decoder_qkv_multiscales=((),) * 6,
        decoder_norm_types=("batch_norm",) * 3 + ("rms_norm",) * 3,
        decoder_act_fns=("relu",) * 3 + ("silu",) * 3,
    )


def rae() -> Any:
    model = getattr(pytest.importorskip("diffusers"), "AutoencoderRAE", None)
    if model is None:
        pytest.skip("this diffusers has no AutoencoderRAE")
    return model(
        decoder_hidden_size=1152,
        decoder_num_hidden_layers=28,
        decoder_num_attention_heads=16,
        decoder_intermediate_size=4096,
    )


TWINS: dict[str, Callable[[], Any]] = {
    "chameleon_vq": chameleon,
    "llamagen_vq16": janus,
    "emu3_image": emu3,
    "kl_f8": lambda: kl((128, 256, 512, 512), 4),
    "kl_f8_c16": lambda: kl((128, 256, 512, 512), 16, use_quant_conv=False, use_post_quant_conv=False),
    "kl16_mar": lambda: kl(
        (128, 128, 256, 256, 512), 16, down_block_types=(DOWN,) * 4 + ("AttnDownEncoderBlock2D",)
    ),
    "dc_ae_f32": dc_ae,
    "rae_dinov2": rae,
}


@pytest.mark.parametrize("name", TWINS)
def test_a_recipe_has_as_many_parameters_as_its_twin(name):
    with torch.device("meta"):
        twin = TWINS[name]()
    ours = instantiate(set_everywhere(read_recipe([name])["model"]["tokenizer"], "weights", None))
    if not any(key.startswith("decoder.") for key in twin.state_dict()):
        ours.decoder = None  # transformers' Chameleon only encodes
    theirs, mine = (sum(parameter.numel() for parameter in model.parameters()) for model in (twin, ours))
    assert abs(mine - theirs) <= 0.01 * theirs, (mine, theirs)
