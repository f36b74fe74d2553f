"""Token chunks as litdata streams them, written by litdata itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from vistok.errors import ShardError
from vistok.shards.exports.base import ExportFormat
from vistok.shards.exports.numbering import TokenNumbering, narrowest
from vistok.shards.exports.source import Source

# the types of torch that its TokensLoader can read
LIMITS = {"uint16": 1 << 16, "int32": 1 << 31, "int64": 1 << 63}


@dataclass(frozen=True)
class LitData(ExportFormat):
    """``chunk-0-{i}.bin`` and ``index.json`` for ``StreamingDataset(OUT, item_loader=TokensLoader(block_size=L))``.

    The reader cuts each chunk into blocks of L tokens and drops what is left at its end. A chunk ends where an image ends:
    if every image has L tokens, special tokens included, each block is one image and nothing is dropped.

    Args:
        tokens: Ids and special tokens.
        chunk_bytes: Size of a chunk, at most.
    """

    name: ClassVar[str] = "litdata"
    kind: ClassVar[Literal["discrete", "continuous", "any"]] = "discrete"
    packages: ClassVar[Mapping[str, str]] = {"litdata": "litdata"}
    tokens: TokenNumbering = field(default_factory=TokenNumbering)
    chunk_bytes: int = 64_000_000

    def check(self, source: Source) -> None:
        """Refuses ids that cannot be told apart, and chunks of nothing."""
        if self.chunk_bytes < 1:
            raise ShardError(f"--chunk-bytes must be at least 1, it is {self.chunk_bytes}")
        self._dtype(source)

    def write(self, source: Source, folder: Path) -> tuple[str, ...]:
        """Writes the chunks, holding one in memory."""
        import torch
        from litdata.streaming import Cache, TokensLoader

        dtype = self._dtype(source)
        cache = Cache(str(folder), chunk_bytes=self.chunk_bytes, item_loader=TokensLoader())
        for number, sample in enumerate(source):
            cache[number] = torch.from_numpy(self.tokens.sequence(sample.tokens).astype(dtype))
        cache.done()
        cache.merge(1)
        _without_clock(folder)
        return ()

    def _dtype(self, source: Source) -> np.dtype[Any]:
        return narrowest(self.tokens.check(source.stream, self.name), LIMITS, self.name)


def _without_clock(folder: Path) -> None:
    """Replaces the time in the index, by which litdata knows whether its cache is stale, with a hash of the chunks."""
    path = folder / "index.json"
    index = json.loads(path.read_bytes())
    digest = hashlib.sha256()
    for chunk in index["chunks"]:
        with (folder / chunk["filename"]).open("rb") as file:
            digest.update(file.read())
    path.write_text(
        json.dumps({**index, "updated_at": digest.hexdigest()[:32]}, sort_keys=True), encoding="utf-8"
    )
