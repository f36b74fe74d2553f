"""Which columns all Arrow shards of a run have: decided once, before the first shard, from no shard's own images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vistok.data import ImageDataset
from vistok.data.crops import Tiles
from vistok.data.views import Views
from vistok.shards.arrow_columns import JSON_COLUMN, common_type
from vistok.shards.loading import KeyedImages, plain
from vistok.shards.plan import Plan
from vistok.spec import StreamSpec, TokenizerSpec
from vistok.tokenizer import Tokenizer

NUM_LOOKED_AT = 256
UNTOLD = {"caption": "string", "label": "int64"}


@dataclass(frozen=True)
class RunColumns:
    """What the columns of every shard of a run are, so that readers of Arrow files take the shards as one table.

    Args:
        size: (H, W) of all images, where it is sure before they are read: tokens are fixed-size lists. None: they are
            variable lists, and every image has its size and grid in columns.
        fields: Arrow type by name of the dataset's fields that are columns; a value that does not fit goes to JSON text.
        text: Whether there is a column of JSON text, for all that has no column.
        moments: Whether latents are means and standard deviations.
    """

    size: tuple[int, int] | None
    fields: Mapping[str, str] = field(default_factory=dict)
    text: bool = True
    moments: bool = False

    @classmethod
    def of(
        cls, tokenizer: Tokenizer, dataset: KeyedImages, first: Mapping[str, Any], plan: Plan
    ) -> RunColumns:
        """The columns for what a tokenizer makes of a dataset.

        Args:
            tokenizer: Its decoder may permit one size alone.
            dataset: One of vistok's is asked for the fields of some images, evenly spread; that reads none of them.
            first: Fields of the image with the first key. Of another dataset no more is known, so its shards have label
                and caption whether or not it gives them.
            plan: Of its keys.
        """
        size = _size(tokenizer, dataset)
        taken = _taken(tokenizer.spec, size)
        if not isinstance(dataset, ImageDataset):
            kinds = {**UNTOLD, **_kinds({name: [value] for name, value in first.items()})}
            return cls(size, {name: kinds[name] for name in sorted(kinds) if name not in taken})
        text = not all(key.isascii() for key in plan.keys)
        if type(dataset).extras is ImageDataset.extras:
            return cls(size, {}, text)
        seen: dict[str, list[Any]] = {}
        for fields in (first, *_some(dataset)):
            for name, value in fields.items():
                seen.setdefault(name, []).append(value)
        kinds = _kinds(seen)
        return cls(size, {name: kinds[name] for name in sorted(kinds) if name not in taken})

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> RunColumns | None:
        """The columns that a fingerprint's fields tell; None where they tell nothing: each shard decides for itself."""
        if "columns.size" not in fields:
            return None
        size = fields["columns.size"]
        moments = fields.get("latents.moments") is True
        return cls(
            None if size is None else tuple(size), fields["columns.fields"], fields["columns.text"], moments
        )

    def tokens(self, stream: StreamSpec) -> tuple[list[int], int, int] | None:
        """Grid, N and width of a stream of images of the one size, as its spec has them; None if it does not tell."""
        if (
            self.size is None
            or stream.topology == "ragged"
            or (stream.topology != "1d" and not stream.factor)
        ):
            return None
        grid = stream.grid(*self.size)
        grids = stream.scale_grids((grid[0], grid[1])) if stream.topology == "multiscale" else (grid,)
        width = stream.num_groups if stream.codebook_size is not None else stream.dim * (1 + self.moments)
        return list(grid), sum(math.prod(sides) for sides in grids), width

    def to_fields(self) -> dict[str, Any]:
        """For a run's fingerprint."""
        size = None if self.size is None else list(self.size)
        return {"columns.size": size, "columns.fields": dict(self.fields), "columns.text": self.text}


def _size(tokenizer: Tokenizer, dataset: KeyedImages) -> tuple[int, int] | None:
    """The size that all images surely have."""
    if isinstance(dataset, Tiles):
        return dataset.size
    # another class may make its images as it likes
    by_policy = type(dataset).__getitem__ in (ImageDataset.__getitem__, Views.__getitem__)
    if by_policy and isinstance(dataset, ImageDataset) and dataset.buckets is None and dataset.policy.size:
        return dataset.policy.size
    return None if tokenizer.decoder is None else tokenizer.decoder.image_size


def _some(dataset: ImageDataset) -> Iterator[Mapping[str, Any]]:
    step = -(-len(dataset) // NUM_LOOKED_AT)
    for index in range(0, len(dataset), step):
        try:
            yield plain(dataset.extras(index))
        except (
            Exception
        ):  # a dataset is anyone's code; encoding reads this image again and tells what is wrong
            continue


def _kinds(seen: Mapping[str, list[Any]]) -> dict[str, str]:
    """Arrow type of each field whose values have one; large texts differ from others only in their shard."""
    kinds = {name: common_type(values) for name, values in seen.items() if name and name.isprintable()}
    return {name: str(kind).replace("large_", "") for name, kind in kinds.items() if kind is not None}


def _taken(spec: TokenizerSpec, size: tuple[int, int] | None) -> set[str]:
    """Names of columns of the shards' own; height and width are those of the image, where they are columns."""
    own = {"key", "size", "grid", JSON_COLUMN} | ({"height", "width"} if size is None else set())
    return own | {f"{stream.name}{end}" for stream in spec.streams for end in ("", ".length", ".grid")}
