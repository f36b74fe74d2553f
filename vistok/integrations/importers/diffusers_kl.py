"""diffusers' AutoencoderKL and VQModel: the autoencoders of latent diffusion, and MoVQ as Kandinsky has it."""

from __future__ import annotations

from dataclasses import replace

from vistok.integrations.importers.checkpoint import Checkpoint
from vistok.integrations.importers.keys import KeyMap
from vistok.integrations.importers.sizes import Sizes
from vistok.quantizers import VQ, Gaussian
from vistok.tokenizer import Tokenizer

DIFFUSERS = KeyMap(
    {
        "encoder.levels.{level}.res.{block}": "encoder.down_blocks.{level}.resnets.{block}",
        "encoder.levels.{level}.attention.{block}.norm": "encoder.down_blocks.{level}.attentions.{block}.group_norm",
        "encoder.levels.{level}.attention.{block}": "encoder.down_blocks.{level}.attentions.{block}",
        "encoder.levels.{level}.resample": "encoder.down_blocks.{level}.downsamplers.0",
        "encoder.middle.res.{block}": "encoder.mid_block.resnets.{block}",
        "encoder.middle.attention.0.norm": "encoder.mid_block.attentions.0.group_norm",
        "encoder.middle.attention.0": "encoder.mid_block.attentions.0",
        "encoder.norm_out": "encoder.conv_norm_out",
        "encoder": "encoder",
        "decoder.levels.{level}.res.{block}": "decoder.up_blocks.{level}.resnets.{block}",
        "decoder.levels.{level}.attention.{block}.norm": "decoder.up_blocks.{level}.attentions.{block}.group_norm",
        "decoder.levels.{level}.attention.{block}": "decoder.up_blocks.{level}.attentions.{block}",
        "decoder.levels.{level}.resample": "decoder.up_blocks.{level}.upsamplers.0",
        "decoder.middle.res.{block}": "decoder.mid_block.resnets.{block}",
        "decoder.middle.attention.0.norm": "decoder.mid_block.attentions.0.group_norm",
        "decoder.middle.attention.0": "decoder.mid_block.attentions.0",
        "decoder.norm_out": "decoder.conv_norm_out",
        "decoder": "decoder",
        "project_in": "quant_conv",
        "quantizer.codebook": "quantize.embedding.weight",
        "project_out": "post_quant_conv",
    },
    {"skip": "conv_shortcut", "qkv": "to_q to_k to_v", "out": "to_out.0"},
)
# the names of attention before diffusers 0.15, which Stable Diffusion's files still have
_EARLY = {"qkv": "query key value", "out": "proj_attn"}
_MODULATION = {"norm": "norm_layer", "scale": "conv_y", "shift": "conv_b"}


def choose_keys(checkpoint: Checkpoint, keys: KeyMap) -> KeyMap:
    """The names that a checkpoint has: early or late, with or without modulation."""
    if "decoder.conv_norm_out.conv_y.weight" in checkpoint.tensors:
        places = {
            ours: theirs.replace("group_norm", "spatial_norm") if ours.startswith("decoder") else theirs
            for ours, theirs in keys.places.items()
        }
        keys = replace(keys, places=places, leaves={**keys.leaves, **_MODULATION})
    if any(key.endswith(".proj_attn.weight") for key in checkpoint.tensors):
        keys = replace(keys, leaves={**keys.leaves, **_EARLY})
    return keys


def build_kl(checkpoint: Checkpoint, keys: KeyMap) -> Tokenizer:
    """A continuous tokenizer, its normaliser set to the shift and scale of the config; random weights."""
    sizes = _sizes(checkpoint, keys)
    decoder = sizes.decoder()
    if decoder is None:
        raise checkpoint.refuse("it lacks decoder.conv_in.weight")
    project_out = sizes.projection("project_out")
    tokenizer = Tokenizer(
        encoder=sizes.encoder(),
        project_in=sizes.projection("project_in"),
        quantizer=Gaussian(decoder.dim if project_out is None else project_out.dim_in),
        project_out=project_out,
        decoder=decoder,
        name=checkpoint.name,
    )
    config = checkpoint.config
    scale = config.get("scaling_factor") or 1.0
    shift, deviation = (
        config.get("latents_mean") or config.get("shift_factor") or 0.0,
        config.get("latents_std"),
    )
    assert tokenizer.normaliser is not None
    tokenizer.normaliser.set(shift, scale if deviation is None else [scale / value for value in deviation])
    return tokenizer


def build_vq(checkpoint: Checkpoint, keys: KeyMap) -> Tokenizer:
    """A discrete tokenizer, modulated where its decoder is; random weights."""
    sizes = _sizes(checkpoint, keys)
    codebook_size, dim = sizes.shape("quantizer.codebook")
    return Tokenizer(
        encoder=sizes.encoder(),
        project_in=sizes.projection("project_in"),
        quantizer=VQ(codebook_size, dim, init="uniform"),
        project_out=sizes.projection("project_out"),
        decoder=sizes.modulated_decoder(dim)
        if sizes.has("decoder.norm_out.scale.weight")
        else sizes.decoder(),
        name=checkpoint.name,
    )


def _sizes(checkpoint: Checkpoint, keys: KeyMap) -> Sizes:
    checkpoint.require("act_fn", "silu")
    return Sizes(checkpoint, keys, int(checkpoint.config.get("norm_num_groups", 32)))
