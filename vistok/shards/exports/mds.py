"""MDS shards as MosaicML's ``streaming`` reads them, written by its own writer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from vistok.errors import ShardError
from vistok.shards.exports.base import ExportFormat
from vistok.shards.exports.numbering import TokenNumbering
from vistok.shards.exports.parquet import check_numbering
from vistok.shards.exports.source import ExportSample, Source, as_text, label_of
from vistok.spec import index_dtype

MAX_SHARD_BYTES = (1 << 32) - 1


@dataclass(frozen=True)
class MDS(ExportFormat):
    """``shard.00000.mds`` and ``index.json``, with columns ``key``, ``tokens`` or ``latents`` (N, D), ``grid`` and ``fields``.

    ``tokens`` is one sequence of the smallest unsigned type. There is a ``label`` and a ``caption`` if the first sample has
    them, and then all must.

    Args:
        tokens: Ids and special tokens.
        default_label: Class of samples that have none; None refuses them where others have one.
        shard_bytes: Size of a shard, at most; below 2^32.
    """

    name: ClassVar[str] = "mds"
    kind: ClassVar[Literal["discrete", "continuous", "any"]] = "any"
    packages: ClassVar[Mapping[str, str]] = {"streaming": "mosaicml-streaming"}
    tokens: TokenNumbering = field(default_factory=TokenNumbering)
    default_label: int | None = None
    shard_bytes: int = 1 << 26

    def check(self, source: Source) -> None:
        """Refuses ids that cannot be told apart, and shards that the format cannot index."""
        check_numbering(self.tokens, source, self.name)
        if not 0 < self.shard_bytes <= MAX_SHARD_BYTES:
            raise ShardError(f"--shard-bytes is {self.shard_bytes}: give 1 to {MAX_SHARD_BYTES}")
        if source.stream.codebook_size is not None:
            self.tokens.check(source.stream, self.name)

    def write(self, source: Source, folder: Path) -> tuple[str, ...]:
        """Writes the shards, holding one in memory."""
        from streaming import MDSWriter

        columns: dict[str, str] | None = None
        writer: Any = None
        for sample in source:
            if columns is None:
                columns = self._columns(sample, source)
                writer = MDSWriter(out=str(folder), columns=columns, size_limit=self.shard_bytes)
            writer.write(self._row(sample, columns))
        writer.finish()
        return ()

    def _columns(self, first: ExportSample, source: Source) -> dict[str, str]:
        columns = {"key": "str", "grid": "ndarray:int32", "fields": "json"}
        if source.stream.codebook_size is None:
            columns["latents"] = "ndarray:float32"
        else:
            columns["tokens"] = f"ndarray:{index_dtype(self.tokens.check(source.stream, self.name))}"
        if first.label is not None or self.default_label is not None:
            columns["label"] = "int"
        if first.caption is not None:
            columns["caption"] = "str"
        return columns

    def _row(self, sample: ExportSample, columns: Mapping[str, str]) -> dict[str, Any]:
        key, caption, fields = as_text(sample)
        row: dict[str, Any] = {"key": key, "fields": fields}
        row["grid"] = np.array(sample.grid, dtype=np.int32)
        if "latents" in columns:
            row["latents"] = np.ascontiguousarray(sample.tokens)
        else:
            dtype = columns["tokens"].partition(":")[2]
            row["tokens"] = self.tokens.sequence(sample.tokens).astype(dtype)
        if "label" in columns:
            row["label"] = label_of(sample, self.default_label, self.name)
        elif sample.label is not None:
            raise ShardError(
                f"sample {sample.key!r} has a label and those before have none: give --default-label"
            )
        if "caption" in columns and sample.caption is None:
            raise ShardError(
                f"sample {sample.key!r} has no caption and those before have one: export to parquet"
            )
        if "caption" not in columns and sample.caption is not None:
            raise ShardError(
                f"sample {sample.key!r} has a caption and those before have none: export to parquet"
            )
        return row if caption is None else {**row, "caption": caption}
