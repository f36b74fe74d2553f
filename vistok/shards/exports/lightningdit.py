"""Latents as LightningDiT trains on them: safetensors of ten thousand images, and their statistics."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vistok.errors import ShardError
from vistok.shards.exports.base import ExportFormat
from vistok.shards.exports.latents import channels_first
from vistok.shards.exports.source import ExportSample, Images, Source, Views, image_and_flip, label_of
from vistok.shards.latents import ChannelStatistics

ALIGNMENT = 8


@dataclass(frozen=True)
class LightningDiT(ExportFormat):
    """``latents_rank00_shard000.safetensors`` with ``latents`` and ``latents_flip`` (n, D, h, w) and ``labels`` (n,).

    ``latents_stats.pt`` holds mean and standard deviation of each channel, (1, D, 1, 1), over the latents of all images and
    not, as the published script does, over ten thousand drawn ones.

    Args:
        default_label: Class of images that have none; None refuses them.
        views: ``all`` needs each image and its flip; ``original`` leaves ``latents_flip`` out, which the reader as
            published refuses.
        normalised: Keep the tokenizer's shift and scale instead of undoing them.
        images_per_file: The last file may have fewer.
    """

    name: ClassVar[str] = "lightningdit"
    kind: ClassVar[Literal["discrete", "continuous", "any"]] = "continuous"
    default_label: int | None = None
    views: Views = "all"
    normalised: bool = False
    images_per_file: int = 10_000

    def check(self, source: Source) -> None:
        """Refuses files without images."""
        if self.images_per_file < 1:
            raise ShardError(f"--images-per-file must be at least 1, it is {self.images_per_file}")

    def write(self, source: Source, folder: Path) -> tuple[str, ...]:
        """Writes the files one after the other; no file is held in memory."""
        images = Images(source, self.views, self.name)
        names = ("latents", "latents_flip") if self.views == "all" else ("latents",)
        statistics: ChannelStatistics | None = None
        shape: tuple[int, ...] = ()
        writer: _TensorFile | None = None
        for number, views in enumerate(images):
            chosen = image_and_flip(views, self.name) if self.views == "all" else views
            arrays = [channels_first(v, source.spec, self.name, normalised=self.normalised) for v in chosen]
            if not number:
                shape = arrays[0].shape
            _check_shapes(arrays, shape, chosen[0], self.name)
            place = number % self.images_per_file
            if not place:
                path = folder / f"latents_rank00_shard{number // self.images_per_file:03d}.safetensors"
                rows = min(self.images_per_file, len(images) - number)
                writer = _TensorFile(path, rows, names, shape)
            assert writer is not None
            writer.put(place, label_of(chosen[0], self.default_label, self.name), arrays)
            # transposed, each channel is summed in the order of its positions
            found = ChannelStatistics.of(arrays[0].reshape(shape[0], -1).T)
            statistics = found if statistics is None else statistics.merged(found)
        assert statistics is not None
        torch.save(unbiased(statistics), folder / "latents_stats.pt")
        return ()


def unbiased(statistics: ChannelStatistics) -> dict[str, torch.Tensor]:
    """``mean`` and unbiased ``std``, float32 (1, D, 1, 1)."""
    std = np.sqrt(statistics.m2 / max(statistics.count - 1, 1))
    return {
        name: torch.from_numpy(value.astype(np.float32)).reshape(1, -1, 1, 1)
        for name, value in (("mean", statistics.mean), ("std", std))
    }


class _TensorFile:
    """A safetensors file that is filled row by row: its size is known before its first row is."""

    def __init__(self, path: Path, rows: int, names: tuple[str, ...], shape: tuple[int, ...]) -> None:
        self._path = path
        self._row_bytes = 4 * int(np.prod(shape))
        header: dict[str, object] = {"__metadata__": {"total_size": str(rows)}}
        header["labels"] = {"dtype": "I64", "shape": [rows], "data_offsets": [0, 8 * rows]}
        end = 8 * rows
        self._starts = []
        for name in names:
            self._starts.append(end)
            offsets = [end, end + rows * self._row_bytes]
            header[name] = {"dtype": "F32", "shape": [rows, *shape], "data_offsets": offsets}
            end = offsets[1]
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % ALIGNMENT)
        self._data = 8 + len(text)
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(self._data + end)

    def put(self, row: int, label: int, arrays: list[NDArray[np.float32]]) -> None:
        """Writes one image."""
        with self._path.open("r+b", buffering=0) as file:
            file.seek(self._data + 8 * row)
            file.write(struct.pack("<q", label))
            for start, array in zip(self._starts, arrays, strict=True):
                file.seek(self._data + start + row * self._row_bytes)
                file.write(np.ascontiguousarray(array, dtype="<f4").tobytes())


def _check_shapes(
    arrays: list[NDArray[np.float32]], shape: tuple[int, ...], sample: ExportSample, format_name: str
) -> None:
    for array in arrays:
        if array.shape != shape:
            raise ShardError(
                f"{format_name} stacks images of one size, and {sample.key!r} has latents {array.shape} where the first had "
                f"{shape}: encode with a fixed size, or export to mar or parquet"
            )
