"""Items of a shard dataset to a batch, and a batch to what ``Tokenizer.decode`` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vistok.errors import ShardError
from vistok.shards.rows import UNNAMED_STREAM, Rows, as_column
from vistok.spec import TokenizerSpec
from vistok.tokenizer import Encoded, StreamTokens


def collate(items: Sequence[Mapping[str, Any]] | dict[str, Any]) -> dict[str, Any]:
    """Items of one image size to a batch; a ``collate_fn`` for DataLoader, fast for what ``ShardDataset`` reads at once.

    A batch from ``ShardStream`` passes as it is; ``DataLoader(stream, batch_size=None)`` looks at every string in it without
    a ``collate_fn``.

    Shapes:
        indices (N, S) -> (B, N, S), latents (N, D) -> (B, N, D). Where N varies, shorter ones end in zeros and
        ``lengths`` (B,) says how long each is. Integer and float fields become tensors (B,), others lists of B.

    Raises:
        ShardError: no items, or images of several sizes or grids.
    """
    if isinstance(items, dict):
        return items
    if not items:
        raise ShardError("a batch needs at least one item")
    if isinstance(items, Rows):
        whole = items.batch()
        if whole is not None:
            return whole
    batch: dict[str, Any] = {}
    for name in sorted({name for item in items for name in item}):
        values = [item.get(name) for item in items]
        if name in ("size", "grid"):
            batch[name] = _same(values, name)
        elif name in ("indices", "latents", "std"):
            lengths = [len(value) for value in values if value is not None]
            if len(set(lengths)) > 1:
                batch["lengths"] = torch.tensor(lengths)
            batch[name] = torch.nn.utils.rnn.pad_sequence(
                [v for v in values if v is not None], batch_first=True
            )
        elif name == "streams":
            batch[name] = {
                stream: collate([value[stream] for value in values if value]) for stream in values[0] or {}
            }
        else:
            batch[name] = as_column(values)
    return batch


def to_encoded(batch: Mapping[str, Any], spec: TokenizerSpec | None = None) -> Encoded:
    """A collated batch as ``Tokenizer.encode`` would have given it.

    Args:
        batch: From ``collate``.
        spec: Of the shards; names the stream of a batch that names none, which is ``pixel`` without it.
    """
    streams: dict[str, StreamTokens] = {}
    if "streams" in batch:
        streams = {name: _stream(tokens) for name, tokens in batch["streams"].items()}
    else:
        streams[spec.main.name if spec is not None else UNNAMED_STREAM] = _stream(batch)
    lengths: Tensor | None = batch.get("lengths")
    return Encoded(streams, batch["size"], lengths)


def _stream(tokens: Mapping[str, Any]) -> StreamTokens:
    return StreamTokens(tokens.get("indices"), tokens.get("latents"), tokens["grid"])


def _same(values: Sequence[Any], name: str) -> Any:
    if any(value != values[0] for value in values):
        other = next(value for value in values if value != values[0])
        raise ShardError(
            f"a batch holds images of {name} {values[0]} and {other}: group them by {name}, "
            "as stream(batch_size=...) of the shards does"
        )
    return values[0]
