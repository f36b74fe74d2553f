"""encoder -> quantizer -> decoder, as one module, with everything a downstream model calls."""

from vistok.tokenizer.encoded import Encoded, StreamTokens
from vistok.tokenizer.normaliser import LatentNormaliser
from vistok.tokenizer.saving import load, save
from vistok.tokenizer.tokenizer import Reconstruction, Tokenizer

__all__ = ["Encoded", "LatentNormaliser", "Reconstruction", "StreamTokens", "Tokenizer", "load", "save"]
