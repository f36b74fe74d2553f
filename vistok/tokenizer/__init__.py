"""encoder -> quantizer -> decoder, as one module, with everything a downstream model calls."""

from vistok.tokenizer.branch import Branch
from vistok.tokenizer.code_noise import CodeNoise
from vistok.tokenizer.encoded import Encoded, StreamTokens
from vistok.tokenizer.merge import Merge
from vistok.tokenizer.normaliser import LatentNormaliser
from vistok.tokenizer.reconstruction import Reconstruction
from vistok.tokenizer.saving import load, save
from vistok.tokenizer.tokenizer import Tokenizer

__all__ = [
    "Branch",
    "CodeNoise",
    "Encoded",
    "LatentNormaliser",
    "Merge",
    "Reconstruction",
    "StreamTokens",
    "Tokenizer",
    "load",
    "save",
]
