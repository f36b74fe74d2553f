"""vistok: train visual tokenizers, turn datasets into token shards, plug them into any model through one interface."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vistok.errors import DataError, ImageError, RecipeError, ShardError, TokenizerError, VistokError
    from vistok.spec import ImagePolicy, StreamSpec, TokenizerSpec
    from vistok.tokenizer import Encoded, Tokenizer, load

__version__ = "0.1.0"

# name -> module: looked up when first used, so that `import vistok` and `vistok --help` load nothing heavy
_EXPORTS = {
    "DataError": "vistok.errors",
    "Encoded": "vistok.tokenizer",
    "ImageError": "vistok.errors",
    "ImagePolicy": "vistok.spec",
    "RecipeError": "vistok.errors",
    "ShardError": "vistok.errors",
    "StreamSpec": "vistok.spec",
    "Tokenizer": "vistok.tokenizer",
    "TokenizerError": "vistok.errors",
    "TokenizerSpec": "vistok.spec",
    "VistokError": "vistok.errors",
    "load": "vistok.tokenizer",
}
_SUBPACKAGES = (
    "backbones",
    "data",
    "evaluation",
    "integrations",
    "losses",
    "quantizers",
    "shards",
    "tokenizer",
    "training",
)

__all__ = [
    "DataError",
    "Encoded",
    "ImageError",
    "ImagePolicy",
    "RecipeError",
    "ShardError",
    "StreamSpec",
    "Tokenizer",
    "TokenizerError",
    "TokenizerSpec",
    "VistokError",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"vistok.{name}")
    raise AttributeError(f"module 'vistok' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBPACKAGES])
