"""diffusers' AutoencoderDC: DC-AE, and Sana's."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from vistok.backbones import DCDecoder, DCEncoder
from vistok.integrations.importers.checkpoint import Checkpoint
from vistok.integrations.importers.keys import KeyMap
from vistok.quantizers import Identity
from vistok.tokenizer import Tokenizer

_STAGES = {"encoder": "down_blocks", "decoder": "up_blocks"}
DC_AE = KeyMap(
    {
        "encoder.stages.{level}.{block}.attention.norm": "encoder.down_blocks.{level}.{block}.attn.norm_out",
        "encoder.stages.{level}.{block}.attention.aggregates.{scale}.0": "encoder.down_blocks.{level}.{block}.attn.to_qkv_multiscale.{scale}.proj_in",
        "encoder.stages.{level}.{block}.attention.aggregates.{scale}.1": "encoder.down_blocks.{level}.{block}.attn.to_qkv_multiscale.{scale}.proj_out",
        "encoder.stages.{level}": "encoder.down_blocks.{level}",
        "encoder": "encoder",
        "decoder.stages.{level}.{block}.attention.norm": "decoder.up_blocks.{level}.{block}.attn.norm_out",
        "decoder.stages.{level}.{block}.attention.aggregates.{scale}.0": "decoder.up_blocks.{level}.{block}.attn.to_qkv_multiscale.{scale}.proj_in",
        "decoder.stages.{level}.{block}.attention.aggregates.{scale}.1": "decoder.up_blocks.{level}.{block}.attn.to_qkv_multiscale.{scale}.proj_out",
        "decoder.stages.{level}": "decoder.up_blocks.{level}",
        "decoder": "decoder",
    },
    {
        "attention": "attn",
        "mlp": "conv_out",
        "qkv": "to_q to_k to_v",
        "out": "to_out",
        "expand": "conv_inverted",
        "depthwise": "conv_depth",
        "contract": "conv_point",
    },
)


def fold(checkpoint: Checkpoint) -> Checkpoint:
    """Batch normalisation, as it acts in evaluation, becomes part of the convolution before it."""
    tensors = dict(checkpoint.tensors)
    for key in [key for key in tensors if key.endswith(".norm.running_mean")]:
        block = key.removesuffix(".norm.running_mean")
        mean, variance, weight, bias = (
            tensors.pop(f"{block}.norm.{name}") for name in ("running_mean", "running_var", "weight", "bias")
        )
        tensors.pop(f"{block}.norm.num_batches_tracked", None)
        scale = weight / (variance + 1e-5).sqrt()
        tensors[f"{block}.conv2.weight"] = tensors[f"{block}.conv2.weight"] * scale[:, None, None, None]
        tensors[f"{block}.conv2.bias"] = bias - mean * scale
    return replace(checkpoint, tensors=tensors)


def build(checkpoint: Checkpoint, keys: KeyMap) -> Tokenizer:
    """The tokenizer of a folded checkpoint, with random weights."""
    checkpoint.require("encoder_out_shortcut", True)
    checkpoint.require("decoder_in_shortcut", True)
    checkpoint.require("decoder_conv_act_fn", "relu")
    for key in ("encoder.conv_out.weight", "decoder.conv_in.weight"):
        if key not in checkpoint.tensors:
            raise checkpoint.refuse(f"it lacks {key}")
    encoder = DCEncoder(**_arguments(checkpoint, "encoder"))
    decoder = _arguments(checkpoint, "decoder")
    _check_activations(checkpoint, decoder)
    tokenizer = Tokenizer(
        encoder=encoder, quantizer=Identity(encoder.dim), decoder=DCDecoder(**decoder), name=checkpoint.name
    )
    assert tokenizer.normaliser is not None
    tokenizer.normaliser.set(0.0, checkpoint.config.get("scaling_factor") or 1.0)
    return tokenizer


def _arguments(checkpoint: Checkpoint, side: str) -> dict[str, Any]:
    """The constructor's arguments, read from the shapes; ``head_dim`` from the config where no shape shows it."""
    stages = f"{side}.{_STAGES[side]}"
    shapes = {key: list(value.shape) for key, value in checkpoint.tensors.items()}
    blocks = _blocks(checkpoint, stages)
    widths: list[int] = []
    depths: list[int] = []
    attention_at: list[int] = []
    folded_at: list[int] = []
    resampling: list[tuple[int, int]] = []
    for level in range(max([1, *blocks]) + 1):
        numbers = blocks.get(level, [])
        whole = [n for n in numbers if f"{stages}.{level}.{n}.conv.weight" not in shapes]
        resampling += [(level, n) for n in numbers if n not in whole]
        depths.append(len(whole))
        if not whole and level == 0:  # its width is named in the config alone, and nothing has it
            widths.append(0)
            continue
        first = f"{stages}.{level}.{whole[0] if whole else 0}"
        attends = f"{first}.attn.to_q.weight" in shapes
        key = f"{first}.attn.to_out.weight" if attends else f"{first}.conv2.weight"
        if key not in shapes:
            raise checkpoint.refuse(f"it lacks {key}")
        widths.append(shapes[key][0])
        attention_at += [level] if attends else []
        folded_at += [level] if f"{first}.conv2.bias" in shapes else []
    widths[0] = widths[0] or widths[1]
    arguments: dict[str, Any] = {
        "dim": shapes["decoder.conv_in.weight"][1],
        "widths": widths,
        "depths": depths,
        "attention_at": attention_at,
        "resample": _resampling(shapes, side, stages, widths, resampling),
        **_attention(checkpoint, shapes, stages),
    }
    return arguments if side == "encoder" else {**arguments, "folded_at": folded_at}


def _attention(checkpoint: Checkpoint, shapes: dict[str, list[int]], stages: str) -> dict[str, Any]:
    """``scales`` and ``head_dim``, from the first block of attention that aggregates."""
    kernels = sorted(key for key in shapes if key.startswith(stages) and key.endswith(".proj_in.weight"))
    if not kernels:
        return {"scales": (), "head_dim": checkpoint.config.get("attention_head_dim", 32)}
    block = kernels[0].rpartition(".to_qkv_multiscale.")[0]
    return {
        "scales": [shapes[key][-1] for key in kernels if key.startswith(f"{block}.")],
        "head_dim": shapes[kernels[0].replace("proj_in", "proj_out")][1],
    }


def _blocks(checkpoint: Checkpoint, stages: str) -> dict[int, list[int]]:
    """Numbers of the blocks of each level that has any."""
    found: dict[int, set[int]] = {}
    for key in checkpoint.tensors:
        if match := re.match(re.escape(stages) + r"\.(\d+)\.(\d+)\.", key):
            found.setdefault(int(match[1]), set()).add(int(match[2]))
    return {level: sorted(numbers) for level, numbers in found.items()}


def _resampling(
    shapes: dict[str, list[int]], side: str, stages: str, widths: list[int], places: list[tuple[int, int]]
) -> str:
    level, number = places[0]
    made = shapes[f"{stages}.{level}.{number}.conv.weight"][0]
    plain = widths[level + 1] if side == "encoder" else widths[level]
    return "conv" if made == plain else "shuffle"


def _check_activations(checkpoint: Checkpoint, decoder: dict[str, Any]) -> None:
    """Shapes do not show activations: where the config names them, they must be ours."""
    given = checkpoint.config.get("decoder_act_fns", "")
    names = [given] * len(decoder["depths"]) if isinstance(given, str) else given
    for level, (name, depth) in enumerate(zip(names, decoder["depths"], strict=True)):
        wanted = "relu" if level in decoder["folded_at"] else "silu"
        if name and depth and level not in decoder["attention_at"] and name != wanted:
            raise checkpoint.refuse(
                f"level {level} of its decoder has {name}, vistok has {wanted} alone there"
            )
