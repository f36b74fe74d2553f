"""What an importer reads: tensors by name, and the config beside them where there is one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vistok.backbones.weights import read_state
from vistok.errors import TokenizerError

_CONFIG = "config.json"
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


@dataclass
class Checkpoint:
    """Tensors under the names of their source.

    Args:
        place: Where they are from, for messages.
        kind: What they are taken for.
        tensors: By name.
        config: What config.json says of this model; empty where the source is a file alone.
        name: What the tokenizer is to be called.
    """

    place: str
    kind: str
    tensors: dict[str, Tensor]
    config: dict[str, Any] = field(default_factory=dict)
    name: str = "imported"

    def refuse(self, reason: str) -> TokenizerError:
        """An error that names this checkpoint."""
        return TokenizerError(f"{self.place} cannot be imported as {self.kind}: {reason}")

    def require(self, key: str, wanted: Any) -> None:
        """Checks a setting of the config, where there is one and it says anything.

        Raises:
            TokenizerError: it is another.
        """
        value = self.config.get(key, wanted)
        if value != wanted:
            raise self.refuse(f"{key} is {value!r} in its {_CONFIG}, vistok has {wanted!r} alone")


def read_checkpoint(source: str | Path, kind: str, prefixes: Sequence[str] = ()) -> Checkpoint:
    """Reads a file of weights, or a folder with config.json and weights, in float32; nothing in it is run.

    Args:
        source: A .safetensors file, a state dict that ``torch.save`` wrote, or a folder as ``save_pretrained`` makes it.
        kind: What it is to be taken for.
        prefixes: Where a larger model keeps the tokenizer: if keys begin with one of them, only those are read.

    Raises:
        TokenizerError: nothing there, or something that cannot be read this way.
    """
    path = Path(source)
    config: dict[str, Any] = {}
    if path.is_dir():
        config = _read_json(path / _CONFIG)
        tensors = _read_folder(path, prefixes)
    else:
        # LlamaGen's training checkpoints hold the command line beside the weights
        with torch.serialization.safe_globals([argparse.Namespace]):
            tensors = dict(read_state(path))
    for prefix in prefixes:
        inside = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if inside:
            tensors, config = inside, config.get("vq_config") or config
            break
    wrong = next((key for key, value in tensors.items() if not isinstance(value, Tensor)), None)
    if wrong is not None:
        raise TokenizerError(
            f"{source} is no state dict: {wrong!r} is {type(tensors[wrong]).__name__}, not a tensor"
        )
    # before anything is computed with them
    tensors = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    return Checkpoint(str(source), kind, tensors, config)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise TokenizerError(
            f"{path.parent} has no {path.name}: give the folder that save_pretrained wrote, or one file"
        )
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise TokenizerError(f"{path} holds {type(data).__name__}, not settings by name")
    return data


def _read_folder(folder: Path, prefixes: Sequence[str]) -> dict[str, Tensor]:
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if indices:
        return _read_sharded(folder, _read_json(indices[0]).get("weight_map", {}), prefixes)
    for suffix in _SUFFIXES:
        files = sorted(folder.glob(f"*{suffix}"))
        if len(files) > 1:
            raise TokenizerError(
                f"{folder} holds {len(files)} files of weights, {files[0].name} and {files[1].name} among them: give one of them"
            )
        if files:
            return dict(read_state(files[0]))
    raise TokenizerError(f"{folder} has no file of weights: none ends in {', '.join(_SUFFIXES)}")


def _read_sharded(folder: Path, places: dict[str, str], prefixes: Sequence[str]) -> dict[str, Tensor]:
    """The tokenizer's tensors of a large model, without reading the shards that hold none of them."""
    inside = [key for key in places if any(key.startswith(prefix) for prefix in prefixes)]
    wanted = set(inside or places)
    tensors: dict[str, Tensor] = {}
    for name in sorted({places[key] for key in wanted}):
        if Path(name).name != name:
            raise TokenizerError(f"{folder} names a shard outside itself: {name}")
        tensors.update({key: value for key, value in read_state(folder / name).items() if key in wanted})
    return tensors
