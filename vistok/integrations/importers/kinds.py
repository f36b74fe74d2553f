"""The kinds of checkpoints that can be imported, and the one way that all of them take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vistok.errors import TokenizerError
from vistok.integrations.importers import diffusers_dc_ae, diffusers_kl, diffusers_rae, emu3, vqgan
from vistok.integrations.importers.checkpoint import Checkpoint, read_checkpoint
from vistok.integrations.importers.keys import KeyMap, fill
from vistok.quantizers import Quantizer
from vistok.tokenizer import Tokenizer


@dataclass(frozen=True)
class Kind:
    """One kind of checkpoint.

    Args:
        keys: Where it keeps what.
        build: Makes the tokenizer, with random weights, from the shapes and the config.
        prefixes: Beginnings of its keys inside a larger model.
        fold: Rewrites its tensors as our modules need them.
        choose: Picks among names that differ between versions.
    """

    keys: KeyMap
    build: Callable[[Checkpoint, KeyMap], Tokenizer]
    prefixes: tuple[str, ...] = ()
    fold: Callable[[Checkpoint], Checkpoint] | None = None
    choose: Callable[[Checkpoint, KeyMap], KeyMap] | None = None


_IN_A_MODEL = ("model.vqmodel.", "vqmodel.")
KINDS: Mapping[str, Kind] = {
    "chameleon": Kind(vqgan.CHAMELEON, vqgan.build_chameleon, _IN_A_MODEL),
    "diffusers-dc-ae": Kind(diffusers_dc_ae.DC_AE, diffusers_dc_ae.build, fold=diffusers_dc_ae.fold),
    "diffusers-kl": Kind(diffusers_kl.DIFFUSERS, diffusers_kl.build_kl, choose=diffusers_kl.choose_keys),
    "diffusers-rae": Kind(
        diffusers_rae.RAE, diffusers_rae.build, fold=diffusers_rae.fold, choose=diffusers_rae.choose_keys
    ),
    "diffusers-vq": Kind(diffusers_kl.DIFFUSERS, diffusers_kl.build_vq, choose=diffusers_kl.choose_keys),
    "emu3": Kind(emu3.EMU3, emu3.build, _IN_A_MODEL, fold=emu3.fold),
    # latent diffusion kept the names of taming-transformers
    "ldm-kl": Kind(vqgan.CHAMELEON, diffusers_kl.build_kl, ("first_stage_model.",)),
    "janus": Kind(vqgan.JANUS, vqgan.build_llamagen, _IN_A_MODEL),
    "llamagen": Kind(vqgan.LLAMAGEN, vqgan.build_llamagen, ("gen_vision_model.",)),
}


def import_tokenizer(
    kind: str,
    source: str | Path,
    *,
    name: str | None = None,
    licence: str = "unknown",
    scale: float | None = None,
    shift: float | None = None,
) -> Tokenizer:
    """A tokenizer that does what a public checkpoint does, in evaluation mode and float32.

    Args:
        kind: One of ``KINDS``.
        source: A .safetensors file, a state dict that ``torch.save`` wrote, or a folder with config.json and weights.
        name: What the spec calls it; the kind, if None.
        licence: What the spec says of it; it is that of the checkpoint, which does not tell.
        scale: Of continuous latents, ``(raw - shift) * scale``, above 0; None is the config's, 1 where there is none.
        shift: As ``scale``; 0 where there is none.

    Raises:
        TokenizerError: an unknown kind, or the first thing in the checkpoint that is missing, left over or does not fit.
    """
    if kind not in KINDS:
        raise TokenizerError(f"there is no importer for {kind!r}: choose one of {', '.join(KINDS)}")
    chosen = KINDS[kind]
    checkpoint = replace(read_checkpoint(source, kind, chosen.prefixes), name=name or kind)
    keys = chosen.keys if chosen.choose is None else chosen.choose(checkpoint, chosen.keys)
    try:
        if chosen.fold is not None:
            checkpoint = chosen.fold(checkpoint)
        with torch.random.fork_rng(
            devices=[]
        ):  # the weights are replaced: the caller's draws stay as they were
            tokenizer = chosen.build(checkpoint, keys)
    except (KeyError, IndexError, ValueError, TypeError, RuntimeError) as error:
        raise checkpoint.refuse(
            f"its tensors do not fit together ({type(error).__name__}: {error})"
        ) from error
    fill(tokenizer, checkpoint, keys)
    for part in tokenizer.modules():
        if isinstance(part, Quantizer):
            part.loaded()
    if scale is not None or shift is not None:
        _normalise(tokenizer, scale, shift)
    tokenizer.licence = licence
    tokenizer.provenance = {"imported_from": kind, "checkpoint": Path(source).name}
    return tokenizer.eval()


def _normalise(tokenizer: Tokenizer, scale: float | None, shift: float | None) -> None:
    normaliser = tokenizer.normaliser
    if normaliser is None:
        raise TokenizerError(f"{tokenizer.name} is discrete: it has no latents to scale or shift")
    if scale is not None and not 0 < scale < math.inf:
        raise TokenizerError(f"the scale of latents is {scale}: it must be above 0")
    normaliser.set(
        normaliser.shift if shift is None else shift,
        normaliser.scale if scale is None else scale,
        normaliser.grid,
    )
