"""Tokens of whole images, read back from shards and split by whole images."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vistok.data.photos import HELD_OUT_EVERY
from vistok.errors import DataError
from vistok.tokenizer import Encoded, StreamTokens, Tokenizer

SPLITS = ("train", "held_out")
MOST_TILES = 256
_TILE = re.compile(r"_r\d+_c\d+$")


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens of images of one size.

    Args:
        encoded: Of n images, as ``Tokenizer.encode`` gives them.
        captions: One for each image; empty where nobody asked for them.
    """

    encoded: Encoded
    captions: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return self.encoded.batch_size

    @property
    def streams(self) -> list[StreamTokens]:
        """All streams, in the order of the spec."""
        return list(self.encoded.values())

    @property
    def values(self) -> Tensor:
        """Of the first stream: (n, N, S) int64 indices, or (n, N, D) latents."""
        return self.encoded.tokens

    @property
    def num_tokens(self) -> int:
        """Indices of an image, of all streams; positions where they are latents."""
        return sum(s.values[0].numel() if s.latents is None else s.values.shape[1] for s in self.streams)

    def of_streams(self, values: Sequence[Tensor]) -> Encoded:
        """Other values on the same grids, one tensor for each stream."""
        streams = {}
        for (name, like), tensor in zip(self.encoded.items(), values, strict=True):
            indices, latents = (tensor, None) if like.latents is None else (None, tensor)
            streams[name] = StreamTokens(indices, latents, like.grid)
        return Encoded(streams, self.encoded.size)

    def some(self, chosen: Tensor) -> Encoded:
        """Those of some images, by position."""
        return self.of_streams([stream.values[chosen] for stream in self.streams])


def positions(stream: StreamTokens) -> tuple[int, ...]:
    """How the N positions of a stream lie: its grid, or (N,) where they are of several scales."""
    count = stream.values.shape[1]
    return stream.grid if math.prod(stream.grid) == count else (count,)


def decoded(tokenizer: Tokenizer, tokens: Tokens, encoded: Encoded) -> Tensor:
    """Pictures of tokens on the grids of others: (n, 3, H, W) in [-1, 1], on the CPU."""
    pieces = zip(*(torch.split(stream.values, 32) for stream in encoded.values()), strict=True)
    return torch.cat([tokenizer.decode(tokens.of_streams(piece)).cpu() for piece in pieces])


def read_tokens(shards: Path, tokenizer: Tokenizer, captions: bool = False) -> dict[str, Tokens]:
    """Training and held-out tokens of a shard directory.

    Shards that carry a ``split`` are split by it, others by whole images: every fifth by sorted name is held out, with
    all its views and tiles. No image gives more than 256 samples, evenly chosen: a large sky would else be most of what
    is learned. Where images have several sizes, those of the most frequent one are read.

    Args:
        shards: What ``vistok.shards.encode`` wrote.
        tokenizer: The one that made them.
        captions: Give each image its caption, or its label's name, or else words about what its tokens decode to.

    Raises:
        ShardError: no shards, or another tokenizer's.
        DataError: a split without images.
    """
    import vistok.shards

    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    dataset = vistok.shards.open(shards, tokenizer)
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=64, collate_fn=list)
    for items in loader:
        for item in items:
            found.setdefault((str(item.get("split", "")), _image_name(item)), []).append(item)
    shape = _most_frequent(item for items in found.values() for item in items)
    result = {}
    for split, names in _split_names(found).items():
        chosen = [
            item
            for name in names
            for item in _evenly([i for i in found[name] if _shape(i) == shape], MOST_TILES)
        ]
        if not chosen:
            raise DataError(
                f"{shards} holds no tokens to {'train on' if split == 'train' else 'hold out'}: "
                "give at least two images of one size"
            )
        tokens = Tokens(vistok.shards.to_encoded(vistok.shards.collate(chosen), tokenizer.spec))
        result[split] = _captioned(tokens, chosen, tokenizer) if captions else tokens
    return result


def _captioned(tokens: Tokens, items: list[dict[str, Any]], tokenizer: Tokenizer) -> Tokens:
    from vistok.downstream.captions import described

    for name in ("caption", "class", "label"):
        if all(str(item.get(name, "")).strip() for item in items):
            told = [str(item[name]) for item in items]
            break
    else:
        told = described(decoded(tokenizer, tokens, tokens.encoded))
    return Tokens(tokens.encoded, told)


def _image_name(item: dict[str, Any]) -> str:
    """The image that a sample is a view or a tile of."""
    for name in ("photo", "source"):
        if isinstance(item.get(name), str):
            return str(item[name])
    return without_tile(str(item["key"]))


def _shape(item: dict[str, Any]) -> tuple[Any, ...]:
    """Size in pixels and all grids."""
    streams = [item, *item.get("streams", {}).values()]
    return tuple(item["size"]), *(tuple(stream["grid"]) for stream in streams)


def _most_frequent(items: Iterable[dict[str, Any]]) -> tuple[Any, ...]:
    return Counter(_shape(item) for item in items).most_common(1)[0][0]


def _split_names(found: dict[tuple[str, str], Any]) -> dict[str, list[tuple[str, str]]]:
    if all(split in SPLITS for split, _ in found):
        return {split: [name for name in found if name[0] == split] for split in SPLITS}
    held_out = held_out_names(name for _, name in found)
    return {split: [n for n in found if (n[1] in held_out) == (split == "held_out")] for split in SPLITS}


def held_out_names(names: Iterable[str]) -> set[str]:
    """Every fifth of the sorted names of images, and at least one."""
    ordered = sorted(set(names))
    return set(ordered[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY] or ordered[-1:])


def without_tile(key: str) -> str:
    """The key of the image that a tile of ``vistok.data.Tiles`` is of; other keys as they are."""
    return _TILE.sub("", key)


def _evenly(items: list[Any], limit: int) -> list[Any]:
    if len(items) <= limit:
        return items
    return [items[i * len(items) // limit] for i in range(limit)]
