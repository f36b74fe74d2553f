"""Codes as LlamaGen trains on them: one ``.npy`` an image, with its views, and one with its label."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from vistok.errors import ShardError
from vistok.shards.exports.base import ExportFormat
from vistok.shards.exports.numbering import MAX_VOCABULARY, TokenNumbering, narrowest
from vistok.shards.exports.source import ExportSample, Images, Source, Views, label_of

READER_COUNT = 1_281_167


@dataclass(frozen=True)
class LlamaGen(ExportFormat):
    """``{dataset}{size}_codes/{i}.npy`` int64 (1, A, N) for A views of image i, and ``{dataset}{size}_labels/{i}.npy`` (1,).

    With S > 1 indices a position, ``group_order="group"`` gives (1, A, S, N), which UniTok's training reads, and
    ``position`` gives (1, A, N * S).

    Args:
        tokens: Ids; special tokens have no place.
        dataset: First part of the folders' names; LlamaGen's reader looks for ``imagenet``.
        image_size: Second part; None takes the size of the images, which must then be the same of all.
        default_label: Class of images that have none; None refuses them.
        views: ``all`` needs the same views of every image; ``original`` writes the image alone.
    """

    name: ClassVar[str] = "llamagen"
    kind: ClassVar[Literal["discrete", "continuous", "any"]] = "discrete"
    tokens: TokenNumbering = field(default_factory=TokenNumbering)
    dataset: str = "imagenet"
    image_size: int | None = None
    default_label: int | None = None
    views: Views = "all"

    def check(self, source: Source) -> None:
        """Refuses special tokens, S > 1 without an order, and names that are no folder's."""
        vocabulary = self.tokens.check(source.stream, self.name, specials=False)
        narrowest(vocabulary, {"int64": MAX_VOCABULARY}, self.name)
        if not self.dataset or set("/\\\0") & set(self.dataset) or self.dataset.startswith("."):
            raise ShardError(f"--dataset {self.dataset!r} cannot be part of a folder's name: give another")

    def write(self, source: Source, folder: Path) -> tuple[str, ...]:
        """Writes two files an image, numbered in the order of the shards."""
        images = Images(source, self.views, self.name)
        codes = labels = folder
        names: list[str] = []
        size: tuple[int, int] = (0, 0)
        lengths: set[int] = set()
        for number, views in enumerate(images):
            if not number:
                stem = f"{self.dataset}{self._size(views[0])}"
                codes, labels = folder / f"{stem}_codes", folder / f"{stem}_labels"
                codes.mkdir()
                labels.mkdir()
                names, size = [view.view for view in views], views[0].size
            self._compare(views, names, size)
            lengths.add(len(views[0].tokens))
            np.save(codes / f"{number}.npy", np.stack([self._codes(view) for view in views])[None])
            label = label_of(views[0], self.default_label, self.name)
            np.save(labels / f"{number}.npy", np.array([label], dtype=np.int64))
        notes = []
        if len(images) != READER_COUNT:
            notes.append(
                f"LlamaGen's reader asks for {READER_COUNT} images, here are {len(images)}: change its range()"
            )
        if len(lengths) > 1:
            notes.append(
                f"the images have {min(lengths)} to {max(lengths)} tokens, and LlamaGen's loader stacks those of one number"
            )
        if len(names) > 1:
            notes.append(
                "LlamaGen's reader picks one of the views only where the path of the codes holds 'flip'"
            )
        return tuple(notes)

    def _codes(self, sample: ExportSample) -> NDArray[np.int64]:
        """(N * S,), or (S, N) for S > 1 groups in group order."""
        if self.tokens.group_order == "group" and sample.tokens.shape[1] > 1:
            return np.ascontiguousarray(self.tokens.ids(sample.tokens).T)
        return self.tokens.sequence(sample.tokens)

    def _size(self, sample: ExportSample) -> int:
        if self.image_size is not None:
            return self.image_size
        height, width = sample.size
        if height != width:
            raise ShardError(
                f"{self.name} names its folders by the size of square images, and {sample.key!r} has "
                f"{height} x {width}: give --image-size"
            )
        return height

    def _compare(self, views: list[ExportSample], names: list[str], size: tuple[int, int]) -> None:
        found = [view.view for view in views]
        if found != names:
            told = [", ".join(name or "itself" for name in some) for some in (found, names)]
            raise ShardError(
                f"of {views[0].key!r} there is: {told[0]}; and of the first image: {told[1]}; {self.name} needs the same "
                "views of all: encode them again, or give --views original"
            )
        if len({view.tokens.shape for view in views}) > 1:
            raise ShardError(
                f"the views of {views[0].key!r} have different numbers of tokens, which {self.name} cannot stack: "
                "encode with a fixed size, or give --views original"
            )
        if views[0].size != size and self.image_size is None:
            told = [f"{height} x {width}" for height, width in (views[0].size, size)]
            raise ShardError(
                f"{views[0].key!r} has {told[0]} pixels and the first image {told[1]}, and {self.name} names one folder by the "
                "size of all: encode with a fixed size, or give --image-size to export them as they are"
            )
