"""Chameleon's VQ-IMG and LlamaGen's VQ, the latter under its own names and under those of transformers' Janus."""

from __future__ import annotations

from typing import Literal

from vistok.integrations.importers.checkpoint import Checkpoint
from vistok.integrations.importers.keys import KeyMap
from vistok.integrations.importers.sizes import Sizes
from vistok.quantizers import VQ
from vistok.tokenizer import Tokenizer

_LEAVES = {"skip": "nin_shortcut", "qkv": "q k v", "out": "proj_out"}
_ENDS = {
    "encoder.conv_in": "encoder.conv_in",
    "encoder.norm_out": "encoder.norm_out",
    "encoder.conv_out": "encoder.conv_out",
    "decoder.conv_in": "decoder.conv_in",
    "decoder.norm_out": "decoder.norm_out",
    "decoder.conv_out": "decoder.conv_out",
    "project_in": "quant_conv",
    "quantizer.codebook": "quantize.embedding.weight",
    "project_out": "post_quant_conv",
}
_TAMING = {
    "encoder.levels.{level}.res.{block}": "encoder.down.{level}.block.{block}",
    "encoder.levels.{level}.attention.{block}": "encoder.down.{level}.attn.{block}",
    "encoder.levels.{level}.resample": "encoder.down.{level}.downsample",
    "encoder.middle.res.0": "encoder.mid.block_1",
    "encoder.middle.attention.0": "encoder.mid.attn_1",
    "encoder.middle.res.1": "encoder.mid.block_2",
    "decoder.levels.{level}.res.{block}": "decoder.up.{level}.block.{block}",
    "decoder.levels.{level}.attention.{block}": "decoder.up.{level}.attn.{block}",
    "decoder.levels.{level}.resample": "decoder.up.{level}.upsample",
    "decoder.middle.res.0": "decoder.mid.block_1",
    "decoder.middle.attention.0": "decoder.mid.attn_1",
    "decoder.middle.res.1": "decoder.mid.block_2",
    **_ENDS,
}
# the discriminator and the perceptual network that taming-transformers saves with a tokenizer
CHAMELEON = KeyMap(_TAMING, _LEAVES, finest_first=True, ignored=(r"loss\..*", r"model_ema\..*"))
JANUS = KeyMap(_TAMING, _LEAVES)
# a log of recent choices
LLAMAGEN = KeyMap(
    {
        "encoder.levels.{level}.res.{block}": "encoder.conv_blocks.{level}.res.{block}",
        "encoder.levels.{level}.attention.{block}": "encoder.conv_blocks.{level}.attn.{block}",
        "encoder.levels.{level}.resample": "encoder.conv_blocks.{level}.downsample",
        "encoder.middle.res.0": "encoder.mid.0",
        "encoder.middle.attention.0": "encoder.mid.1",
        "encoder.middle.res.1": "encoder.mid.2",
        "decoder.levels.{level}.res.{block}": "decoder.conv_blocks.{level}.res.{block}",
        "decoder.levels.{level}.attention.{block}": "decoder.conv_blocks.{level}.attn.{block}",
        "decoder.levels.{level}.resample": "decoder.conv_blocks.{level}.upsample",
        "decoder.middle.res.0": "decoder.mid.0",
        "decoder.middle.attention.0": "decoder.mid.1",
        "decoder.middle.res.1": "decoder.mid.2",
        **_ENDS,
    },
    _LEAVES,
    ignored=(r"quantize\.codebook_used",),
)


def build_chameleon(checkpoint: Checkpoint, keys: KeyMap) -> Tokenizer:
    """Codes chosen by the distance; transformers' checkpoints have no decoder, Meta's own has one."""
    return build_vq(checkpoint, keys, "euclid")


def build_llamagen(checkpoint: Checkpoint, keys: KeyMap) -> Tokenizer:
    """Codes chosen by the cosine, as LlamaGen and Janus choose them.

    transformers' port of Janus compares unscaled vectors when it encodes, and so agrees where its codes have length 1.
    """
    return build_vq(checkpoint, keys, "cosine")


def build_vq(checkpoint: Checkpoint, keys: KeyMap, metric: Literal["euclid", "cosine"]) -> Tokenizer:
    """A convolutional autoencoder around a codebook, with random weights."""
    sizes = Sizes(checkpoint, keys)
    codebook_size, dim = sizes.shape("quantizer.codebook")
    return Tokenizer(
        encoder=sizes.encoder(),
        project_in=sizes.projection("project_in"),
        quantizer=VQ(codebook_size, dim, metric=metric, init="uniform"),
        project_out=sizes.projection("project_out"),
        decoder=sizes.decoder(),
        name=checkpoint.name,
    )
