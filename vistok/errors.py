"""The errors that a user can cause and mend: one line each, naming the thing, the reason and the remedy."""

from __future__ import annotations


class VistokError(Exception):
    """A mistake in the input or the environment, told in one line; the command line prints it without a traceback."""


class ImageError(VistokError):
    """An image that cannot be read, or whose size or values the tokenizer refuses."""


class DataError(VistokError):
    """A dataset that is missing, empty or damaged."""


class TokenizerError(VistokError):
    """A tokenizer that cannot be loaded, saved, or used in the way that was asked for."""


class ShardError(VistokError):
    """Token shards that are missing, damaged, or made by another tokenizer."""


class RecipeError(VistokError):
    """A recipe that names something unknown or contradicts itself."""


class LayoutError(VistokError):
    """A layout that does not fit the tokenizer or the text vocabulary, or ids that do not fit the layout."""
