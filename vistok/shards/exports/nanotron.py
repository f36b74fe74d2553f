"""Tokenized files as datatrove writes and nanotron reads them: ``.ds``, ``.ds.index`` and ``.ds.metadata``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from vistok.shards.exports.base import ExportFormat
from vistok.shards.exports.numbering import TokenNumbering, narrowest
from vistok.shards.exports.source import Source

LIMITS = {"uint16": 1 << 16, "uint32": 1 << 32}
_PREFIXES = ("", "k", "M", "G", "T", "P", "E")


@dataclass(frozen=True)
class Nanotron(ExportFormat):
    """``tokens.ds`` of raw tokens, the end of each image in ``.ds.index``, and name, token size and count in ``.ds.metadata``.

    The reader cuts the file into windows of ``sequence_length + 1`` tokens without regard for images, unless they all
    have that length. It takes two or four bytes a token as its own ``vocab_size`` says: give the same as ``--vocab-size``.

    Args:
        tokens: Ids and special tokens.
    """

    name: ClassVar[str] = "nanotron"
    kind: ClassVar[Literal["discrete", "continuous", "any"]] = "discrete"
    tokens: TokenNumbering = field(default_factory=TokenNumbering)

    def check(self, source: Source) -> None:
        """Refuses a vocabulary that four bytes do not hold."""
        self._dtype(source)

    def write(self, source: Source, folder: Path) -> tuple[str, ...]:
        """Writes the three files."""
        dtype = self._dtype(source)
        end = 0
        with (folder / "tokens.ds").open("wb") as file, (folder / "tokens.ds.index").open("wb") as index:
            for sample in source:
                sequence = self.tokens.sequence(sample.tokens)
                file.write(sequence.astype(dtype.newbyteorder("<")).tobytes())
                end += len(sequence)
                index.write(end.to_bytes(8, "little"))
        lines = [f"{source.spec.name}|{dtype.itemsize}", str(end), f"{_short(end)}T"]
        (folder / "tokens.ds.metadata").write_text("\n".join(lines), encoding="utf-8")
        return ()

    def _dtype(self, source: Source) -> np.dtype[np.generic]:
        return narrowest(self.tokens.check(source.stream, self.name), LIMITS, self.name)


def _short(count: int) -> str:
    """A count to three digits, for people: ``1.23 k``."""
    value, power = float(count), 0
    while value >= 999.5 and power < len(_PREFIXES) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {_PREFIXES[power]}"
