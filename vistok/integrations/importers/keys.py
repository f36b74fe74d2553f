"""Key maps as data: where a checkpoint keeps each parameter of a tokenizer, and the strict filling by them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from vistok.backbones.conv import AttentionBlock, ResBlock
from vistok.integrations.importers.checkpoint import Checkpoint
from vistok.tokenizer import Tokenizer
from vistok.tokenizer.weights_hash import exported_state


@dataclass(frozen=True)
class KeyMap:
    """How names of ours become names of theirs.

    Names of ours are logical: the blocks of a convolutional level count by their kind, ``encoder.levels.2.res.1`` and
    ``encoder.levels.2.attention.1``, and ``encoder.levels.2.resample`` follows them; see ``logical_names``.

    Args:
        places: Beginning of a name of ours -> of theirs; the first that fits counts. ``{level}`` and the like stand for
            one component, the same on both sides. Several of theirs, separated by a blank, are concatenated along the
            first dimension.
        leaves: Component of a name of ours, behind the beginning -> of theirs, several as above.
        finest_first: Their decoder counts its levels from the finest, as the encoder does, and not in the order of use.
        ignored: Names of theirs, as regular expressions, that hold nothing a tokenizer needs.
    """

    places: Mapping[str, str]
    leaves: Mapping[str, str] = field(default_factory=dict)
    finest_first: bool = False
    ignored: tuple[str, ...] = ()

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], str]]:
        return [
            (
                re.compile(
                    re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^.]+)", re.escape(ours)) + r"(?:\.(?P<rest>.+))?"
                ),
                theirs,
            )
            for ours, theirs in self.places.items()
        ]

    def theirs(self, name: str) -> list[str]:
        """The keys whose tensors make up a parameter, from its logical name; empty where no place fits."""
        for pattern, place in self._patterns:
            found = pattern.fullmatch(name)
            if found is None:
                continue
            groups = found.groupdict()
            rest = groups.pop("rest")
            keys = [one.format(**groups) for one in place.split()]
            for component in rest.split(".") if rest else []:
                keys = [
                    f"{key}.{leaf}" for key in keys for leaf in self.leaves.get(component, component).split()
                ]
            return keys
        return []


def logical_names(tokenizer: Tokenizer, finest_first: bool) -> dict[str, str]:
    """Logical name of each tensor of a tokenizer, by its name in the state dict."""
    prefixes: list[tuple[str, str]] = []
    for side in ("encoder", "decoder"):
        part = getattr(tokenizer, side)
        middle, levels = getattr(part, "middle", None), getattr(part, "levels", None)
        if isinstance(middle, nn.Sequential):
            prefixes += _by_kind(middle, f"{side}.middle", f"{side}.middle")
        if isinstance(levels, nn.ModuleList):
            for index, level in enumerate(levels):
                flipped = side == "decoder" and finest_first
                number = len(levels) - 1 - index if flipped else index
                prefixes += _by_kind(level, f"{side}.levels.{index}", f"{side}.levels.{number}")
    return {name: _replaced(name, prefixes) for name in exported_state(tokenizer)}


def sources(tokenizer: Tokenizer, checkpoint: Checkpoint, keys: KeyMap) -> dict[str, list[str]]:
    """The keys of a checkpoint that make up each tensor of a tokenizer; looks at names and shapes alone.

    The normaliser, which is no part of a checkpoint's tensors, is left out.

    Raises:
        TokenizerError: the first key that is missing, misshapen or left over.
    """
    unused = {
        key for key in checkpoint.tensors if not any(re.fullmatch(pattern, key) for pattern in keys.ignored)
    }
    wanted = exported_state(tokenizer)
    found: dict[str, list[str]] = {}
    for name, logical in logical_names(tokenizer, keys.finest_first).items():
        if name.startswith("normaliser."):
            continue
        found[name] = keys.theirs(logical)
        missing = next((key for key in found[name] if key not in checkpoint.tensors), None)
        if missing is not None or not found[name]:
            raise checkpoint.refuse(f"it lacks {missing or 'a key'}, which {name} needs")
        shapes = [checkpoint.tensors[key].shape for key in found[name]]
        if not _fit(shapes, wanted[name].shape):
            raise checkpoint.refuse(
                f"{found[name][0]} has shape {tuple(shapes[0])}, which does not fit {name}, {tuple(wanted[name].shape)}"
            )
        unused.difference_update(found[name])
    if unused:
        more = f" (and {len(unused) - 1} more)" if len(unused) > 1 else ""
        raise checkpoint.refuse(f"nothing uses its key {min(unused)}{more}")
    return found


def fill(tokenizer: Tokenizer, checkpoint: Checkpoint, keys: KeyMap) -> None:
    """Gives every parameter its tensor.

    Raises:
        TokenizerError: as ``sources``, or a tensor that is not finite.
    """
    filled: dict[str, Tensor] = {}
    wanted = exported_state(tokenizer)
    for name, taken in sources(tokenizer, checkpoint, keys).items():
        for key in taken:
            if not bool(checkpoint.tensors[key].isfinite().all()):
                raise checkpoint.refuse(f"{key} holds NaN or Inf")
        tensor = torch.cat([checkpoint.tensors[key].detach() for key in taken])
        filled[name] = tensor.reshape(wanted[name].shape)
    tokenizer.load_state_dict(filled, strict=False)


def _by_kind(blocks: nn.Module, ours: str, logical: str) -> list[tuple[str, str]]:
    named: list[tuple[str, str]] = []
    counts = {"res": 0, "attention": 0}
    for index, block in enumerate(blocks.children()):
        kind = (
            "res"
            if isinstance(block, ResBlock)
            else "attention"
            if isinstance(block, AttentionBlock)
            else None
        )
        if kind is None:
            named.append((f"{ours}.{index}.", f"{logical}.resample."))
        else:
            named.append((f"{ours}.{index}.", f"{logical}.{kind}.{counts[kind]}."))
            counts[kind] += 1
    return named


def _replaced(name: str, prefixes: list[tuple[str, str]]) -> str:
    for ours, logical in prefixes:
        if name.startswith(ours):
            return logical + name.removeprefix(ours)
    return name


def _fit(shapes: list[torch.Size], wanted: torch.Size) -> bool:
    """Whether tensors, one behind the other, have a shape but for dimensions of length 1: a 1x1 convolution is a linear layer."""
    if any(shape[1:] != shapes[0][1:] for shape in shapes):
        return False
    whole = [sum(shape[0] for shape in shapes), *shapes[0][1:]] if shapes[0] else []
    return [n for n in whole if n != 1] == [n for n in wanted if n != 1]
