"""Megatron-LM's indexed dataset: all tokens in one ``.bin``, and an ``.idx`` that says where each sequence lies."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, ClassVar, Literal

import numpy as np

from vistok.shards.exports.base import ExportFormat
from vistok.shards.exports.numbering import TokenNumbering, narrowest
from vistok.shards.exports.source import Source

MAGIC = b"MMIDIDX\0\0"
VERSION = 1
# Megatron decides by the vocabulary too: uint16 strictly below 65,500
LIMITS = {"uint16": 65_499, "int32": 1 << 31}
TYPE_CODES = {"uint16": 8, "int32": 4}
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Megatron(ExportFormat):
    """``tokens.bin`` and ``tokens.idx``: each image is one sequence and one document.

    Give ``--data-path OUT/tokens`` to Megatron, and ``--eos`` here the id that it takes as the end of a document.

    Args:
        tokens: Ids and special tokens.
    """

    name: ClassVar[str] = "megatron"
    kind: ClassVar[Literal["discrete", "continuous", "any"]] = "discrete"
    tokens: TokenNumbering = field(default_factory=TokenNumbering)

    def check(self, source: Source) -> None:
        """Refuses a vocabulary that no type of the format holds."""
        self._dtype(source)

    def write(self, source: Source, folder: Path) -> tuple[str, ...]:
        """Writes both files; memory grows by four bytes a sample."""
        dtype = self._dtype(source)
        lengths = array("i")
        with (folder / "tokens.bin").open("wb") as file:
            for sample in source:
                sequence = self.tokens.sequence(sample.tokens)
                file.write(sequence.astype(dtype.newbyteorder("<")).tobytes())
                lengths.append(len(sequence))
        with (folder / "tokens.idx").open("wb") as file:
            write_index(file, lengths, dtype)
        return ()

    def _dtype(self, source: Source) -> np.dtype[np.generic]:
        return narrowest(self.tokens.check(source.stream, self.name), LIMITS, self.name)


def write_index(file: BinaryIO, lengths: Sequence[int], dtype: np.dtype[np.generic]) -> None:
    """Writes an ``.idx``: header, then length and byte offset of each sequence, then the ends of the documents.

    Args:
        file: To write to.
        lengths: Tokens of each sequence.
        dtype: Of the tokens.
    """
    count = len(lengths)
    file.write(MAGIC + struct.pack("<QBQQ", VERSION, TYPE_CODES[dtype.name], count, count + 1))
    file.write(np.asarray(lengths, dtype="<i4").tobytes())
    position = 0
    for start in range(0, count, _CHUNK):
        ends = (
            position + np.cumsum(np.asarray(lengths[start : start + _CHUNK], dtype=np.int64)) * dtype.itemsize
        )
        file.write(np.concatenate([[position], ends[:-1]]).astype("<i8").tobytes())
        position = int(ends[-1])
    for start in range(0, count + 1, _CHUNK):
        file.write(np.arange(start, min(start + _CHUNK, count + 1), dtype="<i8").tobytes())
