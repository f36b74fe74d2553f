from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vistok.backbones import ConvDecoder, ConvEncoder
from vistok.backbones.conv import AttentionBlock, Downsample, ResBlock, Upsample, group_norm
from vistok.errors import ImageError
from vistok.recorded import build

SHAPES = [(1, (1, 1, 2), 4), (2, (1, 2, 2), 8), (4, (1, 2, 2), 16), (2, (1, 1, 1, 1, 2), 32)]


def image(height: int = 64, width: int = 64) -> Tensor:
    return torch.rand(2, 3, height, width) * 2 - 1


@pytest.mark.parametrize(("patch", "multipliers", "factor"), SHAPES)
def test_latents_and_images_have_the_sides_that_the_factor_says(
    patch: int, multipliers: tuple[int, ...], factor: int
) -> None:
    encoder = ConvEncoder(6, 16, multipliers, num_res_blocks=1, patch=patch)
    decoder = ConvDecoder(6, 16, multipliers, num_res_blocks=1, patch=patch)
    assert encoder.factor == decoder.factor == factor
    latent = encoder(image(64, 96))
    assert latent.shape == (2, 64 // factor, 96 // factor, 6)
    assert decoder(latent).shape == (2, 3, 64, 96)


def test_levels_have_the_numbers_of_blocks_that_are_given() -> None:
    encoder = ConvEncoder(6, 16, (1, 2, 2), num_res_blocks=(2, 1, 3))
    decoder = ConvDecoder(6, 16, (1, 2, 2), num_res_blocks=(2, 1, 3))
    assert [num_blocks(level) for level in encoder.levels] == [2, 1, 3]
    assert [num_blocks(level) for level in decoder.levels] == [4, 2, 3]  # coarsest first, one more each
    with pytest.raises(ValueError, match="num_res_blocks has 2 numbers for 3 multipliers"):
        ConvEncoder(6, 16, (1, 2, 2), num_res_blocks=(2, 1))


def num_blocks(level: nn.Module) -> int:
    return sum(isinstance(block, ResBlock) for block in level.children())


def test_haar_patches_train_and_decode_to_the_same_sides() -> None:
    encoder = ConvEncoder(6, 16, (1, 2), num_res_blocks=1, patch=4, patching="haar")
    decoder = ConvDecoder(6, 16, (1, 2), num_res_blocks=1, patch=4, patching="haar")
    image_out = decoder(encoder(image(40, 24)))
    assert image_out.shape == (2, 3, 40, 24)
    image_out.square().mean().backward()
    assert encoder.conv_in.weight.grad is not None and decoder.last_layer.grad is not None
    again = build(encoder.to_config(), {"ConvEncoder": ConvEncoder})
    assert again.patcher.patching == "haar"


def test_latents_are_contiguous_channels_last() -> None:
    latent = ConvEncoder(8, 16, (1, 2), num_res_blocks=1, attention_at=(1,))(image())
    assert latent.is_contiguous()


@pytest.mark.parametrize("attention_at", [(), (1,), (2,)])
def test_attention_in_a_level_brings_attention_in_the_middle(attention_at: tuple[int, ...]) -> None:
    encoder = ConvEncoder(8, 16, (1, 2), num_res_blocks=2, attention_at=attention_at)
    per_level = [sum(isinstance(block, AttentionBlock) for block in level) for level in encoder.levels]
    assert per_level == [0, 2 if 1 in attention_at else 0]
    assert any(isinstance(block, AttentionBlock) for block in encoder.middle) == bool(attention_at)


def test_a_level_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="names level 3; the levels are 0 to 1, and 2 is the middle"):
        ConvEncoder(8, 16, (1, 2), attention_at=(3,))
    with pytest.raises(ValueError, match="multipliers"):
        ConvDecoder(8, 16, ())


def test_groups_may_be_chosen_and_must_divide_the_channels() -> None:
    chosen = ConvEncoder(8, 16, (1, 2), num_res_blocks=1, attention_at=(1,), num_groups=8)
    groups = {part.num_groups for part in chosen.modules() if isinstance(part, nn.GroupNorm)}
    assert groups == {8}
    for wrong in (-1, 0, 5):
        with pytest.raises(ValueError, match=f"num_groups is {wrong}, it must divide 32 channels"):
            ConvDecoder(8, 16, (1, 2), num_groups=wrong)


def test_an_image_whose_sides_are_no_multiples_of_the_factor_is_refused() -> None:
    with pytest.raises(ImageError, match=r"66 x 64 pixels .* multiples of 4"):
        ConvEncoder(8, 16, (1, 2), patch=2)(image(64, 66))


def test_bfloat16_works_as_autocast_and_as_weights() -> None:
    encoder = ConvEncoder(8, 16, (1, 2), num_res_blocks=1, attention_at=(1,), patch=2)
    decoder = ConvDecoder(8, 16, (1, 2), num_res_blocks=1, attention_at=(1,), patch=2)
    exact = decoder(encoder(image()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decoder(encoder(image())).float().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)
    rounded = decoder.bfloat16()(encoder.bfloat16()(image().bfloat16()))
    assert rounded.dtype == torch.bfloat16 and rounded.shape == exact.shape


def test_the_last_layer_is_the_last_weight_before_the_image() -> None:
    decoder = ConvDecoder(8, 16, (1, 2), num_res_blocks=1)
    assert decoder.last_layer is decoder.conv_out.weight
    decoder(torch.randn(1, 4, 4, 8)).mean().backward()
    assert decoder.last_layer.grad is not None


def test_the_same_image_gives_the_same_latent() -> None:
    encoder, x = ConvEncoder(8, 16, (1, 2), num_res_blocks=1, attention_at=(1,)), image()
    assert torch.equal(encoder(x), encoder(x))


def test_the_config_builds_the_same_network() -> None:
    encoder = ConvEncoder(8, 16, (1, 2), num_res_blocks=1, attention_at=(1,), patch=2)
    again = build(encoder.to_config(), {"ConvEncoder": ConvEncoder})
    again.load_state_dict(encoder.state_dict())
    x = image()
    assert torch.equal(encoder(x), again(x))


@pytest.mark.parametrize(
    ("channels", "groups"), [(16, 4), (32, 8), (48, 8), (64, 16), (128, 32), (160, 32), (512, 32)]
)
def test_a_group_has_four_channels_or_more(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_llamagen_vq16_has_as_many_parameters_as_in_transformers() -> None:
    janus = pytest.importorskip("transformers.models.janus.modeling_janus")
    with torch.device("meta"):
        theirs = janus.JanusVQVAE(janus.JanusVQVAEConfig())
        encoder = ConvEncoder(256, attention_at=(4,))
        decoder = ConvDecoder(256, attention_at=(4,))
    assert num_parameters(encoder) == num_parameters(theirs.encoder)
    assert num_parameters(decoder) == num_parameters(theirs.decoder)


def test_llamagens_weights_give_what_transformers_gives() -> None:
    janus = pytest.importorskip("transformers.models.janus.modeling_janus")
    config = janus.JanusVQVAEConfig(
        base_channels=128, channel_multiplier=[1, 2], latent_channels=8, num_res_blocks=1
    )
    theirs = janus.JanusVQVAE(config).eval()
    shape: dict[str, Any] = {"multipliers": (1, 2), "num_res_blocks": 1, "attention_at": (1,)}
    encoder, decoder = ConvEncoder(8, **shape), ConvDecoder(8, **shape)
    for ours, other, levels in ((encoder, theirs.encoder, "down"), (decoder, theirs.decoder, "up")):
        copy(ours.conv_in, other.conv_in)
        copy(ours.conv_out, other.conv_out)
        copy(ours.norm_out, other.norm_out)
        for mine, block in zip(
            ours.middle, (other.mid.block_1, other.mid.attn_1, other.mid.block_2), strict=True
        ):
            copy(mine, block)
        for mine, level in zip(ours.levels, getattr(other, levels), strict=True):
            blocks: list[nn.Module] = []
            for i, block in enumerate(level.block):
                blocks += [block, *([level.attn[i]] if len(level.attn) else [])]
            blocks += [getattr(level, name) for name in ("downsample", "upsample") if hasattr(level, name)]
            for layer, block in zip(mine, blocks, strict=True):
                copy(layer, block)
    x = image(16, 24)
    with torch.no_grad():
        latent = encoder(x)
        torch.testing.assert_close(latent.permute(0, 3, 1, 2), theirs.encoder(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            decoder(latent), theirs.decoder(latent.permute(0, 3, 1, 2)), rtol=1e-4, atol=1e-5
        )


def copy(mine: Any, theirs: Any) -> None:
    """Weights of a transformers block into ours."""
    if isinstance(mine, ResBlock):
        pairs = [
            (getattr(mine, name), getattr(theirs, name)) for name in ("norm1", "conv1", "norm2", "conv2")
        ]
        pairs += [(mine.skip, theirs.nin_shortcut)] if hasattr(theirs, "nin_shortcut") else []
        for ours, other in pairs:
            ours.load_state_dict(other.state_dict())
    elif isinstance(mine, AttentionBlock):
        mine.norm.load_state_dict(theirs.norm.state_dict())
        qkv = (theirs.q, theirs.k, theirs.v)
        mine.qkv.load_state_dict(
            {
                "weight": torch.cat([conv.weight[:, :, 0, 0] for conv in qkv]),
                "bias": torch.cat([conv.bias for conv in qkv]),
            }
        )
        mine.out.load_state_dict({"weight": theirs.proj_out.weight[:, :, 0, 0], "bias": theirs.proj_out.bias})
    elif isinstance(mine, (Downsample, Upsample)):
        mine.conv.load_state_dict(theirs.conv.state_dict())
    else:
        mine.load_state_dict(theirs.state_dict())
