"""Tokenizers from public checkpoints: the same tokens and pictures, every key used, every parameter filled."""

from vistok.integrations.importers.kinds import KINDS, import_tokenizer

__all__ = ["KINDS", "import_tokenizer"]
