"""diffusers' AutoencoderRAE: DINOv2's features as latents, and the decoder that was trained on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vistok.backbones import MAEDecoder, ResizedEncoder, TimmEncoder
from vistok.integrations.importers.checkpoint import Checkpoint
from vistok.integrations.importers.keys import KeyMap
from vistok.quantizers import Identity
from vistok.spec import ImagePolicy
from vistok.tokenizer import Tokenizer

_LAYERS = "encoder.encoder.layer.{block}"
_DECODER = "decoder.decoder_layers.{block}"
RAE = KeyMap(
    {
        "encoder.encoder.model.cls_token": "encoder.embeddings.cls_token",
        "encoder.encoder.model.reg_token": "encoder.embeddings.register_tokens",
        "encoder.encoder.model.pos_embed": "encoder.embeddings.position_embeddings",
        "encoder.encoder.model.patch_embed.proj": "encoder.embeddings.patch_embeddings.projection",
        "encoder.encoder.model.blocks.{block}.attn": f"{_LAYERS}.attention",
        "encoder.encoder.model.blocks.{block}.ls1.gamma": f"{_LAYERS}.layer_scale1.lambda1",
        "encoder.encoder.model.blocks.{block}.ls2.gamma": f"{_LAYERS}.layer_scale2.lambda1",
        "encoder.encoder.model.blocks.{block}": _LAYERS,
        "encoder.encoder.model.norm": "encoder.layernorm",
        "decoder.embed": "decoder.decoder_embed",
        "decoder.registers": "decoder.trainable_cls_token",
        "decoder.blocks.{block}.norm1": f"{_DECODER}.layernorm_before",
        "decoder.blocks.{block}.qkv": f"{_DECODER}.attention.to_q {_DECODER}.attention.to_k {_DECODER}.attention.to_v",
        "decoder.blocks.{block}.out": f"{_DECODER}.attention.to_out.0",
        "decoder.blocks.{block}.norm2": f"{_DECODER}.layernorm_after",
        "decoder.blocks.{block}.mlp.0": f"{_DECODER}.intermediate.dense",
        "decoder.blocks.{block}.mlp.2": f"{_DECODER}.output.dense",
        "decoder.norm": "decoder.decoder_norm",
        "decoder.to_pixels": "decoder.decoder_pred",
    },
    {"qkv": "q_proj k_proj v_proj", "proj": "o_proj"},
    # a token for masked training; the sines, which are computed
    ignored=(r"encoder\.embeddings\.mask_token", r"decoder\.decoder_pos_embed"),
)
# the names of attention before transformers 5
_EARLY = {"qkv": "attention.query attention.key attention.value", "proj": "output.dense"}
_NETWORKS = {
    (384, 12): "vit_small_patch14_reg4_dinov2",
    (768, 12): "vit_base_patch14_reg4_dinov2",
    (1024, 24): "vit_large_patch14_reg4_dinov2",
}


def choose_keys(checkpoint: Checkpoint, keys: KeyMap) -> KeyMap:
    """The names that a checkpoint has, early or late."""
    early = "encoder.encoder.layer.0.attention.attention.query.weight" in checkpoint.tensors
    return replace(keys, leaves=_EARLY) if early else keys


def fold(checkpoint: Checkpoint) -> Checkpoint:
    """Constants and layouts of theirs, worked into the weights.

    The class token takes its position with it, as timm has it; the final normalisation of the encoder, which has no
    parameters, gets ones and zeros; the last layer gives [-1, 1] instead of pixels normalised as for DINOv2, and the
    channels of a patch before its rows.
    """
    tensors = dict(checkpoint.tensors)
    wanted = (
        "encoder_mean",
        "encoder_std",
        "decoder.decoder_pred.weight",
        "encoder.embeddings.position_embeddings",
    )
    for key in wanted:
        if key not in tensors:
            raise checkpoint.refuse(f"it lacks {key}")
    positions = tensors["encoder.embeddings.position_embeddings"]
    tensors["encoder.embeddings.cls_token"] = tensors["encoder.embeddings.cls_token"] + positions[:, :1]
    tensors["encoder.embeddings.position_embeddings"] = positions[:, 1:]
    tensors["encoder.layernorm.weight"] = torch.ones(positions.shape[-1])
    tensors["encoder.layernorm.bias"] = torch.zeros(positions.shape[-1])
    mean, std = tensors.pop("encoder_mean").flatten(), tensors.pop("encoder_std").flatten()
    weight, bias = tensors["decoder.decoder_pred.weight"], tensors["decoder.decoder_pred.bias"]
    tensors["decoder.decoder_pred.weight"] = _channels_first(weight, 2 * std)
    tensors["decoder.decoder_pred.bias"] = _channels_first(bias, 2 * std, 2 * mean - 1)
    return replace(checkpoint, tensors=tensors)


def build(checkpoint: Checkpoint, keys: KeyMap) -> Tokenizer:
    """The tokenizer of a folded checkpoint, with random weights but for the normaliser."""
    config = checkpoint.config
    if not config:
        raise checkpoint.refuse("sizes are in its config.json: give the folder that holds both")
    checkpoint.require("encoder_type", "dinov2")
    width, depth = config.get("encoder_hidden_size", 768), config.get("encoder_num_hidden_layers", 12)
    name = _NETWORKS.get((width, depth))
    if name is None or config.get("encoder_patch_size", 14) != 14:
        raise checkpoint.refuse(
            f"timm has no DINOv2 with registers of {depth} layers of {width} channels, patch 14"
        )
    hidden, patch = config.get("decoder_hidden_size", 512), config.get("patch_size", 16)
    side = config.get("encoder_input_size", 224) // 14 * patch
    tokenizer = Tokenizer(
        encoder=ResizedEncoder(TimmEncoder(name), patch),
        quantizer=Identity(width, noise=config.get("noise_tau", 0.0)),
        decoder=MAEDecoder(
            width,
            patch,
            hidden,
            config.get("decoder_num_hidden_layers", 8),
            config.get("decoder_num_attention_heads", 16),
            config.get("decoder_intermediate_size", 2048) / hidden,
        ),
        image=ImagePolicy(size=(side, side)),
        name=checkpoint.name,
    )
    _check_pixels(checkpoint, tokenizer)
    _normalise(checkpoint, tokenizer)
    return tokenizer


def _channels_first(rows: Tensor, scale: Tensor, shift: Tensor | float = 0.0) -> Tensor:
    """Rows (P * P * 3, ...) of a layer to pixels -> the same with the colour first, scaled and shifted by colour."""
    by_colour = rows.reshape(-1, 3, *rows.shape[1:]).transpose(0, 1)
    shape = (3,) + (1,) * (by_colour.ndim - 1)
    shift = shift.view(shape) if isinstance(shift, Tensor) else shift
    return (by_colour * scale.view(shape) + shift).flatten(0, 1)


def _check_pixels(checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
    encoder: Any = tokenizer.encoder
    std = 0.5 / encoder.encoder.scale.flatten()
    mean = 0.5 - encoder.encoder.shift.flatten() * std
    for key, ours in (("encoder_norm_mean", mean), ("encoder_norm_std", std)):
        theirs = checkpoint.config.get(key) or ours.tolist()
        if not torch.allclose(torch.tensor(theirs), ours, atol=1e-4):
            raise checkpoint.refuse(f"{key} is {theirs}, that of timm's DINOv2 {ours.tolist()}")


def _normalise(checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
    """Takes the statistics of the latents, one for all, per channel or per element, and gives them to the normaliser."""
    mean = checkpoint.tensors.pop("_latents_mean", torch.zeros(1)).float()
    std = checkpoint.tensors.pop("_latents_std", torch.ones(1)).float()
    scale = (checkpoint.config.get("scaling_factor") or 1.0) / (std + 1e-5)
    grid: tuple[int, ...] = ()
    if mean.ndim >= 3 and mean.shape[-1] > 1:
        grid = tuple(mean.shape[-2:])
        mean, scale = (
            values.reshape(-1, *grid).permute(1, 2, 0) for values in (mean, scale.expand(mean.shape))
        )
    assert tokenizer.normaliser is not None
    tokenizer.normaliser.set(mean, scale, grid)
