"""Emu3's tokenizer for still images: its convolutions in time folded, exactly, into two dimensions."""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from torch import Tensor

from vistok.backbones import StillConvs
from vistok.integrations.importers.checkpoint import Checkpoint
from vistok.integrations.importers.keys import KeyMap
from vistok.integrations.importers.sizes import Sizes
from vistok.quantizers import VQ
from vistok.tokenizer import Tokenizer

EMU3 = KeyMap(
    {
        "encoder.levels.{level}.res.{block}": "encoder.down_block.down.{level}.block.{block}",
        "encoder.levels.{level}.attention.{block}.norm": "encoder.down_block.down.{level}.attn_norms.{block}",
        "encoder.levels.{level}.attention.{block}": "encoder.down_block.down.{level}.attn.{block}",
        "encoder.levels.{level}.resample": "encoder.down_block.down.{level}.downsample",
        "encoder.middle.res.0": "encoder.middle_block.block_1",
        "encoder.middle.attention.0.norm": "encoder.middle_block.attn_norm",
        "encoder.middle.attention.0": "encoder.middle_block.attn_1",
        "encoder.middle.res.1": "encoder.middle_block.block_2",
        "encoder": "encoder",
        "project_in.convs.{number}": "encoder.time_conv.{number}.conv.conv",
        "project_in.blocks.{block}.conv1": "encoder.time_res_stack.{block}.conv1.conv",
        "project_in.blocks.{block}.conv2": "encoder.time_res_stack.{block}.conv2.conv",
        "project_in.blocks.{block}": "encoder.time_res_stack.{block}",
        "project_in.project": "quant_conv.conv",
        "quantizer.codebook": "quantize.embedding.weight",
        "project_out": "post_quant_conv.conv",
        "decoder.refine.convs.{number}": "decoder.time_conv.{number}.conv.conv",
        "decoder.refine.blocks.{block}.conv1": "decoder.time_res_stack.{block}.conv1.conv",
        "decoder.refine.blocks.{block}.conv2": "decoder.time_res_stack.{block}.conv2.conv",
        "decoder.refine.blocks.{block}": "decoder.time_res_stack.{block}",
        "decoder.levels.{level}.res.{block}": "decoder.up_block.up.{level}.block.{block}",
        "decoder.levels.{level}.attention.{block}.norm": "decoder.up_block.up.{level}.attn_norms.{block}",
        "decoder.levels.{level}.attention.{block}": "decoder.up_block.up.{level}.attn.{block}",
        "decoder.levels.{level}.resample": "decoder.up_block.up.{level}.upsample",
        "decoder.middle.res.0": "decoder.middle_block.block_1",
        "decoder.middle.attention.0.norm": "decoder.middle_block.attn_norm",
        "decoder.middle.attention.0": "decoder.middle_block.attn_1",
        "decoder.middle.res.1": "decoder.middle_block.block_2",
        "decoder": "decoder",
    },
    {
        "skip": "nin_shortcut",
        "qkv": "q_proj k_proj v_proj",
        "out": "out_proj",
        "norm": "norm_layer",
        "scale": "conv_y",
        "shift": "conv_b",
    },
    finest_first=True,
)
_NORM_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def fold(checkpoint: Checkpoint) -> Checkpoint:
    """The same model for a still image: kernels without time, batch normalisations as a scale and a shift.

    See ``StillConvs`` for why nothing is lost.
    """
    tensors = dict(checkpoint.tensors)
    num_halvings = _count(tensors, r"encoder\.time_conv\.(\d+)\.")
    frames = 2**num_halvings
    for number in range(num_halvings):
        place = f"encoder.time_conv.{number}.conv.conv"
        if f"{place}.weight" in tensors:
            tensors[f"{place}.weight"] = _halving(tensors[f"{place}.weight"], frames, alike=number == 0)
            tensors[f"{place}.bias"] = tensors[f"{place}.bias"].repeat(frames // 2)
        frames //= 2
    for key, value in tensors.items():
        if value.ndim == 5:  # of one frame with zeros before it, a causal kernel's last tap alone counts
            tensors[key] = value[:, :, -1]
    for key in [key for key in tensors if key.endswith(".running_mean")]:
        _fold_norm(tensors, key.removesuffix(".running_mean"))
    return replace(checkpoint, tensors=tensors)


def build(checkpoint: Checkpoint, keys: KeyMap) -> Tokenizer:
    """The tokenizer of a folded checkpoint, with random weights."""
    checkpoint.require("num_attention_heads", 1)
    checkpoint.require("double_latent", False)
    sizes = Sizes(checkpoint, keys)
    codebook_size, dim = sizes.shape("quantizer.codebook")
    encoder, project_out = sizes.encoder(), sizes.projection("project_out")
    num_halvings = _count(checkpoint.tensors, r"encoder\.time_conv\.(\d+)\.")
    if not num_halvings:
        raise checkpoint.refuse("it lacks encoder.time_conv.0.conv.conv.weight")
    return Tokenizer(
        encoder=encoder,
        project_in=StillConvs(
            encoder.dim,
            [2**n for n in reversed(range(num_halvings))],
            _count(checkpoint.tensors, r"encoder\.time_res_stack\.(\d+)\."),
            dim_out=dim,
        ),
        quantizer=VQ(codebook_size, dim, init="uniform"),
        project_out=project_out,
        decoder=sizes.modulated_decoder(
            dim,
            refine=StillConvs(
                dim,
                [1] * num_halvings,
                _count(checkpoint.tensors, r"decoder\.time_res_stack\.(\d+)\."),
                res_first=True,
            ),
        ),
        name=checkpoint.name,
    )


def _halving(kernel: Tensor, frames: int, alike: bool) -> Tensor:
    """A convolution over time of width 4 and stride 2, behind two frames of zeros, as one from frames to half as many as channels.

    Shapes:
        kernel (C, C, 4, 3, 3) -> (C * frames / 2, C * frames, 3, 3); where all frames are alike (C * frames / 2, C, 3, 3).
    """
    channels = kernel.shape[0]
    rows = []
    for out in range(frames // 2):
        taps = [kernel.new_zeros(channels, channels, 3, 3) for _ in range(frames)]
        for tap in range(kernel.shape[2]):
            frame = 2 * out - 2 + tap
            if 0 <= frame < frames:
                taps[frame] = kernel[:, :, tap]
        rows.append(torch.stack(taps).sum(0) if alike else torch.cat(taps, dim=1))
    return torch.cat(rows)


def _fold_norm(tensors: dict[str, Tensor], place: str, eps: float = 1e-5) -> None:
    mean, variance = (tensors.pop(f"{place}.{name}") for name in _NORM_STATISTICS[:2])
    tensors.pop(f"{place}.{_NORM_STATISTICS[2]}", None)
    scale = tensors[f"{place}.weight"] / (variance + eps).sqrt()
    tensors[f"{place}.bias"] = tensors[f"{place}.bias"] - mean * scale
    tensors[f"{place}.weight"] = scale


def _count(tensors: dict[str, Tensor], pattern: str) -> int:
    return len({found.group(1) for key in tensors if (found := re.match(pattern, key))})
