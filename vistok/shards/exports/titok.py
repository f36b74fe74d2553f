"""Pretokenized images as TiTok and RAR train on them: a JSON object a line."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from vistok.shards.exports.base import ExportFormat
from vistok.shards.exports.numbering import TokenNumbering
from vistok.shards.exports.source import Source, label_of


@dataclass(frozen=True)
class TiTok(ExportFormat):
    """``pretokenized.jsonl``: ``{"class_id": 207, "tokens": [...]}`` a line, and each view of an image a line of its own.

    Args:
        tokens: Ids and special tokens; RAR adds its own when it reads.
        default_label: Class of samples that have none; None refuses them.
    """

    name: ClassVar[str] = "titok"
    kind: ClassVar[Literal["discrete", "continuous", "any"]] = "discrete"
    tokens: TokenNumbering = field(default_factory=TokenNumbering)
    default_label: int | None = None

    def check(self, source: Source) -> None:
        """Refuses ids that cannot be told apart."""
        self.tokens.check(source.stream, self.name)

    def write(self, source: Source, folder: Path) -> tuple[str, ...]:
        """Writes the one file."""
        with (folder / "pretokenized.jsonl").open("w", encoding="ascii", newline="\n") as file:
            for sample in source:
                label = label_of(sample, self.default_label, self.name)
                tokens = self.tokens.sequence(sample.tokens).tolist()
                file.write(json.dumps({"class_id": label, "tokens": tokens}) + "\n")
        return ()
