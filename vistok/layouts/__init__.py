"""Layouts: how each backbone writes an image's tokens into its sequence, as data that one engine reads.

from vistok.layouts import Layout

layout = Layout("emu3", tokenizer.spec, vocabulary=text_tokenizer.get_vocab())
packed = layout.pack(tokenizer.encode(x))
packed.ids, packed.labels, layout.vocabulary_size
layout.allowed(packed.ids[:, :10], grid=(64, 64))
layout.unpack(packed.ids).values
fitting(tokenizer.spec)                  # names of the layouts that take this tokenizer
"""

from vistok.layouts.embedding import TokenEmbedder, codebook_vectors, grown_rows
from vistok.layouts.fit import fitting
from vistok.layouts.head import TokenHead
from vistok.layouts.layout import Layout
from vistok.layouts.packed import Packed, Unpacked
from vistok.layouts.template import Template, names

__all__ = [
    "Layout",
    "Packed",
    "Template",
    "TokenEmbedder",
    "TokenHead",
    "Unpacked",
    "codebook_vectors",
    "fitting",
    "grown_rows",
    "names",
]
