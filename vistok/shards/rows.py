"""Samples that were read together: a sequence of items to anyone who looks, and a batch without making the items."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Union

import numpy as np
import torch
from numpy.typing import NDArray

from vistok.data.fields import SHARD_FIELDS
from vistok.errors import ShardError
from vistok.shards.container import ABSENT, Block
from vistok.spec import StreamSpec, TokenizerSpec

OWN_FIELDS = SHARD_FIELDS | {"key"}
MOST = 1 << 63
# the one stream that items need not name
UNNAMED_STREAM = StreamSpec().name
Tokens = Union["NDArray[Any]", "list[NDArray[Any]]"]


class Rows(Sequence[dict[str, Any]]):
    """Items of a shard dataset, held by column; ``collate`` makes a batch of them at once.

    Args:
        parts: Samples of one shard each.
        order: Place of each item among the samples of all parts, one after the other.
        spec: Of the tokenizer that made them.
        moments: Whether latents are (N, 2 D), means and standard deviations.
        out: Where they are from, for errors.

    Raises:
        ShardError: a stream that is missing, or an index outside its codebook.
    """

    def __init__(
        self, parts: Sequence[Block], order: NDArray[np.int64], spec: TokenizerSpec, moments: bool, out: Path
    ) -> None:
        places = order.tolist()
        self._spec, self._moments, self._out, self._size = spec, moments, out, len(places)
        names = dict.fromkeys(name for part in parts for name in part.meta)
        lengths = [len(part.meta["key"]) for part in parts]
        self._meta: dict[str, list[Any]] = {}
        for name in names:
            values = list(
                chain.from_iterable(
                    part.meta.get(name) or [ABSENT] * n for part, n in zip(parts, lengths, strict=True)
                )
            )
            self._meta[name] = [values[place] for place in places]
        self._tokens = {stream.name: self._gathered(parts, order, stream) for stream in spec.streams}

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(f"item {place} of {len(self)}")
        meta = {name: values[place] for name, values in self._meta.items() if values[place] is not ABSENT}
        item = {name: value for name, value in meta.items() if name not in OWN_FIELDS}
        item["key"], item["size"] = meta["key"], tuple(meta["size"])
        streams = {
            name: {**self._split(name, tokens[place]), "grid": tuple(meta["grid"][name])}
            for name, tokens in self._tokens.items()
        }
        return _with_streams(item, streams, self._spec)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[place] for place in range(len(self)))

    def batch(self) -> dict[str, Any] | None:
        """All items as one batch, as ``collate`` gives it of the items; None where they differ in shape, size or grid."""
        size, grid = self._meta["size"], self._meta["grid"]
        if any(isinstance(tokens, list) for tokens in self._tokens.values()) or not (
            _all_equal(size) and _all_equal(grid)
        ):
            return None
        batch: dict[str, Any] = {}
        for name, values in self._meta.items():
            if name not in OWN_FIELDS or name == "key":
                batch[name] = as_column([None if value is ABSENT else value for value in values])
        batch["size"] = tuple(size[0])
        streams = {
            name: {**self._split(name, np.asarray(tokens)), "grid": tuple(grid[0][name])}
            for name, tokens in self._tokens.items()
        }
        return _with_streams(batch, streams, self._spec)

    def _split(self, name: str, tokens: NDArray[Any]) -> dict[str, Any]:
        if tokens.dtype.kind != "f":
            return {"indices": torch.from_numpy(tokens)}
        if not self._moments:
            return {"latents": torch.from_numpy(tokens)}
        means, deviations = torch.from_numpy(tokens).chunk(2, dim=-1)
        return {"latents": means, "std": deviations}

    def _gathered(self, parts: Sequence[Block], order: NDArray[np.int64], stream: StreamSpec) -> Tokens:
        """Tokens of all items, in order, int64 or float32: one array if they have one shape."""
        name = stream.name
        found = [part.arrays[name] for part in parts if name in part.arrays]
        if len(found) < len(parts) or any(name not in grid for grid in self._meta["grid"]):
            raise ShardError(f"{self._out} is damaged: samples of a shard have no stream {name}")
        shapes: set[tuple[int, ...]] = set()
        for tokens in found:
            shapes |= {tokens.shape[1:]} if isinstance(tokens, np.ndarray) else {t.shape for t in tokens}
        if len(shapes) == 1:
            rows = np.concatenate([np.asarray(tokens) for tokens in found])[order]
            self._check(rows, stream)
            return _widened(rows)
        arrays = list(chain.from_iterable(found))
        arrays = [arrays[place] for place in order.tolist()]
        for place, array in enumerate(arrays):
            self._check(array[None], stream, place)
        return [_widened(array) for array in arrays]

    def _check(self, rows: NDArray[Any], stream: StreamSpec, first: int = 0) -> None:
        size = stream.codebook_size
        if rows.dtype.kind == "f" or not rows.size or (size is not None and int(rows.max()) < size):
            return
        wrong = 0 if size is None else int((rows >= size).any(axis=(1, 2)).argmax())
        key = json.dumps(self._meta["key"][first + wrong])
        raise ShardError(f"{self._out}: sample {key} has an index outside the codebook of {size} codes")


def as_column(values: list[Any]) -> Any:
    """One field of a batch: a tensor (B,) of integers or of floats, else the list, as of integers that int64 cannot hold."""
    plain = all(type(value) is float or (type(value) is int and -MOST <= value < MOST) for value in values)
    return torch.tensor(values) if plain else values


def _with_streams(
    item: dict[str, Any], streams: Mapping[str, dict[str, Any]], spec: TokenizerSpec
) -> dict[str, Any]:
    item.update(streams[spec.main.name])
    if list(streams) != [UNNAMED_STREAM]:
        item["streams"] = dict(streams)
    return item


def _widened(array: NDArray[Any]) -> NDArray[Any]:
    """A copy in int64 or float32, of which tensors can be made."""
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int64)


def _all_equal(values: list[Any]) -> bool:
    return all(value is values[0] or value == values[0] for value in values)
