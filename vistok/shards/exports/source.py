"""What is exported: the samples of committed shards, one by one or an image with all its views."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vistok.errors import ShardError
from vistok.shards.reader import ShardDataset
from vistok.shards.rows import OWN_FIELDS
from vistok.spec import StreamSpec

VIEW_MARK = "#"
ORIGINAL_VIEWS = ("", "as-is")
FLIP_VIEW = "flip"
Views = Literal["all", "original"]
_OWN = OWN_FIELDS | {"label", "caption"}


@dataclass(frozen=True)
class ExportSample:
    """One sample of the shards.

    Args:
        key: Its key.
        view: Name of the view; empty for the image itself.
        label: Class, if the dataset gave one.
        caption: Text, if the dataset gave one.
        size: (H, W) in pixels.
        fields: What else the dataset said, as JSON data.
        arrays: By stream, the first one first: indices (N, S) int64, or latents (N, D) float32.
        grids: Token grid by stream.
        std: Standard deviations (N, D) of the latents of the first stream, where the shards hold moments.
    """

    key: str
    view: str
    label: int | None
    caption: str | None
    size: tuple[int, int]
    fields: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]
    grids: Mapping[str, tuple[int, ...]]
    std: NDArray[np.float32] | None = None

    @property
    def tokens(self) -> NDArray[Any]:
        """Indices or latents of the first stream."""
        return next(iter(self.arrays.values()))

    @property
    def grid(self) -> tuple[int, ...]:
        """Token grid of the first stream."""
        return next(iter(self.grids.values()))


def as_text(sample: ExportSample) -> tuple[str, str | None, dict[str, Any]]:
    """Key, caption and fields for formats of UTF-8; what is no text has escapes, and its true form is in the fields."""
    fields = dict(sample.fields)
    key = sample.key.encode("utf-8", "backslashreplace").decode()
    if key != sample.key:
        fields["key"] = sample.key
    caption = sample.caption
    if caption is not None:
        caption = caption.encode("utf-8", "backslashreplace").decode()
        if caption != sample.caption:
            fields["caption"] = sample.caption
    return key, caption, fields


class Source:
    """Shards as a format reads them: a stream of samples, which tells its progress.

    Args:
        dataset: Opened shards.
        streams: Those that are exported; formats that hold one take the first.
        advance: Called with the number of samples that are done and of tokens that were given out.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        streams: Sequence[StreamSpec],
        advance: Callable[[int, int], None] = lambda samples, tokens: None,
    ) -> None:
        self.dataset, self.spec, self.where = dataset, dataset.spec, dataset.path
        self.streams, self.stream = tuple(streams), streams[0]
        self.num_samples, self.num_tokens = 0, 0
        self._advance = advance

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[ExportSample]:
        return map(self.read, range(len(self)))

    def read(self, position: int) -> ExportSample:
        """The sample at a position.

        Raises:
            ShardError: it is damaged, or its label or caption has the wrong type.
        """
        item = self.dataset[position]
        key = item["key"]
        label, caption = item.get("label"), item.get("caption")
        if label is not None and type(label) is not int:
            raise ShardError(f"{self.where}: sample {key!r} has label {label!r}, which is not an integer")
        if caption is not None and not isinstance(caption, str):
            raise ShardError(f"{self.where}: sample {key!r} has a caption that is not text")
        by_stream = item.get("streams", {self.stream.name: item})
        arrays = {s.name: _array_of(by_stream[s.name]) for s in self.streams}
        num_tokens = sum(a.size if a.dtype.kind == "i" else len(a) for a in arrays.values())
        self.num_samples += 1
        self.num_tokens += num_tokens
        self._advance(1, num_tokens)
        return ExportSample(
            key=key,
            view=_view_of(item),
            label=label,
            caption=caption,
            size=item["size"],
            fields={name: value for name, value in item.items() if name not in _OWN},
            arrays=arrays,
            grids={s.name: tuple(by_stream[s.name]["grid"]) for s in self.streams},
            std=_std_of(by_stream[self.stream.name]),
        )

    def skip(self, count: int) -> None:
        """Notes samples that a format leaves out on purpose."""
        self._advance(count, 0)


class Images:
    """The views of each image: the image itself first, then the others sorted by name.

    Which sample is a view of which image is in the samples themselves, so those whose key may be a view's are read
    twice.

    Args:
        source: All samples.
        views: ``all``, or ``original`` for the image itself alone.
        format_name: For messages.
    """

    def __init__(self, source: Source, views: Views, format_name: str) -> None:
        self._source, self._views, self._name = source, views, format_name
        numbers: dict[str, int] = {}
        image: list[int] = []
        names: list[str] = []
        for position, key in enumerate(source.dataset.keys()):
            origin, view = key, ""
            if VIEW_MARK in key:
                item = source.dataset[position]
                origin, view = str(item.get("source", key)), _view_of(item)
            image.append(numbers.setdefault(origin, len(numbers)))
            names.append(view)
        self._order = sorted(range(len(image)), key=lambda i: (image[i], names[i] != "", names[i]))
        ordered = np.array(image, dtype=np.int64)[self._order]
        self._ends = np.append(np.flatnonzero(np.diff(ordered)) + 1, len(ordered))

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[list[ExportSample]]:
        start = 0
        for end in self._ends.tolist():
            last = start + 1 if self._views == "original" else end
            views = [self._source.read(position) for position in self._order[start:last]]
            self._source.skip(end - last)
            names = [sample.view for sample in views]
            if self._views == "original" and names[0]:
                raise ShardError(
                    f"the shards hold {views[0].key!r} and not the image that it is a view of: "
                    f"give --views all, or encode the images themselves too for {self._name}"
                )
            if len(set(names)) < len(names):
                raise ShardError(f"{self._source.where}: two samples are the same view of {views[0].key!r}")
            yield views
            start = end


def image_and_flip(views: list[ExportSample], format_name: str) -> tuple[ExportSample, ExportSample]:
    """The two views that a format with a flip holds.

    Raises:
        ShardError: one is missing, or there are others.
    """
    names = [sample.view for sample in views]
    if names == ["", FLIP_VIEW]:
        return views[0], views[1]
    told = ", ".join(name or "itself" for name in names)
    raise ShardError(
        f"{format_name} holds an image and its flip, and of {views[0].key!r} there is: {told}; encode the images with "
        "their flips and no other views, or give --views original to leave flips out"
    )


def label_of(sample: ExportSample, default: int | None, format_name: str) -> int:
    """The class of a sample.

    Raises:
        ShardError: it has none and there is no default.
    """
    label = default if sample.label is None else sample.label
    if label is None:
        raise ShardError(
            f"sample {sample.key!r} has no label, which {format_name} needs: encode a dataset with labels, "
            "or give --default-label"
        )
    return label


def _array_of(tokens: Mapping[str, Any]) -> NDArray[Any]:
    found: Tensor = tokens["indices"] if "indices" in tokens else tokens["latents"]
    return found.numpy()


def _std_of(tokens: Mapping[str, Any]) -> NDArray[np.float32] | None:
    found: Tensor | None = tokens.get("std")
    return None if found is None else found.numpy()


def _view_of(item: Mapping[str, Any]) -> str:
    view = str(item.get("view") or "")
    return "" if view in ORIGINAL_VIEWS else view
