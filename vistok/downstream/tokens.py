"""Tokens of whole images, read back from shards and split by whole images."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vistok.data.photos import HELD_OUT_EVERY
from vistok.errors import DataError
from vistok.tokenizer import Tokenizer

SPLITS = ("train", "held_out")
MOST_TILES = 256
_TILE = re.compile(r"_r\d+_c\d+$")


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens of images of one size.

    Args:
        values: (n, N, S) int64 indices, or (n, N, D) float latents.
        grid: The token grid: (h, w), or (N,); of several scales the finest.
        size: (H, W) in pixels.
        captions: One for each image; empty where nobody asked for them.
    """

    values: Tensor
    grid: tuple[int, ...]
    size: tuple[int, int]
    captions: list[str] = field(default_factory=list)

    @property
    def positions(self) -> tuple[int, ...]:
        """How the N positions lie: the grid, or (N,) where they are of several scales."""
        count = self.values.shape[1]
        return self.grid if math.prod(self.grid) == count else (count,)

    def decoded(self, tokenizer: Tokenizer, values: Tensor) -> Tensor:
        """Pictures of values on this grid: (n, N, S) or (n, N, D) -> (n, 3, H, W) in [-1, 1], on the CPU."""
        kind = "latents" if values.is_floating_point() else "indices"
        pictures = [
            tokenizer.decode(**{kind: piece}, grid=self.grid).cpu()  # type: ignore[arg-type]
            for piece in values.split(32)
        ]
        return torch.cat(pictures)


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
    grid, size = _most_frequent(item for items in found.values() for item in items)
    result = {}
    for split, names in _split_names(found).items():
        chosen = [
            item
            for name in names
            for item in _evenly([i for i in found[name] if _shape(i) == (grid, size)], MOST_TILES)
        ]
        if not chosen:
            raise DataError(
                f"{shards} holds no tokens to {'train on' if split == 'train' else 'hold out'}: "
                "give at least two images of one size"
            )
        values = torch.stack([item["indices"] if "indices" in item else item["latents"] for item in chosen])
        tokens = Tokens(values, grid, size)
        result[split] = _captioned(tokens, chosen, tokenizer) if captions else tokens
    return result


def _captioned(tokens: Tokens, items: list[dict[str, Any]], tokenizer: Tokenizer) -> Tokens:
    from vistok.downstream.captions import described

    for name in ("caption", "class", "label"):
        if all(str(item.get(name, "")).strip() for item in items):
            told = [str(item[name]) for item in items]
            break
    else:
        told = described(tokens.decoded(tokenizer, tokens.values))
    return Tokens(tokens.values, tokens.grid, tokens.size, told)


def _image_name(item: dict[str, Any]) -> str:
    """The image that a sample is a view or a tile of."""
    for name in ("photo", "source"):
        if isinstance(item.get(name), str):
            return str(item[name])
    return without_tile(str(item["key"]))


def _shape(item: dict[str, Any]) -> tuple[tuple[int, ...], tuple[int, int]]:
    height, width = item["size"]
    return tuple(int(side) for side in item["grid"]), (int(height), int(width))


def _most_frequent(items: Iterable[dict[str, Any]]) -> tuple[tuple[int, ...], tuple[int, int]]:
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
