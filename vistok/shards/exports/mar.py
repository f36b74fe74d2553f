"""Cached moments as MAR trains on them: ``{class}/{file}.npz`` with ``moments`` and ``moments_flip``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from vistok.errors import ShardError
from vistok.shards.decode import safe_name
from vistok.shards.exports.base import ExportFormat
from vistok.shards.exports.latents import LEAST_LOG_VARIANCE, channels_first, log_variances
from vistok.shards.exports.source import ExportSample, Images, Source, Views, image_and_flip, label_of

LABEL_DIGITS = 6


@dataclass(frozen=True)
class MAR(ExportFormat):
    """One ``.npz`` an image: mean and log-variance of its latents, float32 (2D, h, w), and those of its flip.

    The reader draws from them and multiplies by 0.2325, the scale of its own autoencoder. Shards that were encoded with
    moments have a log-variance for each latent. Others hold the mode alone, and the log-variance is one number; its default is
    where autoencoders clamp it: the reader draws the mode.

    The reader numbers classes by the sorted names of the folders. Folders named by label therefore have all the same
    number of digits, and labels must have no gaps.

    Args:
        classes: ``label`` names folders by label, ``key`` by the last folder of the key.
        default_label: Class of images that have none; None refuses them.
        views: ``all`` needs each image and its flip; ``original`` writes ``moments`` alone, which the reader as published
            refuses.
        logvar: Log-variance, of all latents alike, where the shards hold no moments.
        normalised: Keep the tokenizer's shift and scale instead of undoing them.
    """

    name: ClassVar[str] = "mar"
    kind: ClassVar[Literal["discrete", "continuous", "any"]] = "continuous"
    classes: Literal["label", "key"] = "label"
    default_label: int | None = None
    views: Views = "all"
    logvar: float = LEAST_LOG_VARIANCE
    normalised: bool = False

    def write(self, source: Source, folder: Path) -> tuple[str, ...]:
        """Writes one file an image."""
        labels: set[int] = set()
        for views in Images(source, self.views, self.name):
            chosen = views if self.views == "original" else image_and_flip(views, self.name)
            arrays = {
                name: self._moments(view, source)
                for name, view in zip(("moments", "moments_flip"), chosen, strict=False)
            }
            if self.classes == "label":
                labels.add(label_of(chosen[0], self.default_label, self.name))
            path = folder / self._class(chosen[0]) / f"{self._file(chosen[0])}.npz"
            path.parent.mkdir(exist_ok=True)
            try:
                with path.open("xb") as file:
                    np.savez(file, allow_pickle=False, **arrays)
            except FileExistsError:
                raise ShardError(
                    f"two images would be {path.relative_to(folder)}, one of them {chosen[0].key!r}: "
                    "rename one, or give --classes label"
                ) from None
        gaps = sorted(set(range(max(labels, default=-1) + 1)) - labels)
        if gaps:
            raise ShardError(
                f"no image has label {gaps[0]}, and MAR's reader numbers the class folders it finds, so that all labels above "
                "would be read one too low: export all classes, or give --classes key to name folders as in the keys"
            )
        return ()

    def _moments(self, sample: ExportSample, source: Source) -> NDArray[np.float32]:
        mean = channels_first(sample, source.spec, self.name, normalised=self.normalised)
        spread = log_variances(sample, source.spec, self.name, normalised=self.normalised)
        return np.concatenate([mean, np.full_like(mean, self.logvar) if spread is None else spread])

    def _class(self, sample: ExportSample) -> str:
        if self.classes == "key":
            folders = sample.key.split("/")[:-1]
            if not folders:
                raise ShardError(f"the key {sample.key!r} names no folder: give --classes label")
            return safe_name(folders[-1])
        label = label_of(sample, self.default_label, self.name)
        if not 0 <= label < 10**LABEL_DIGITS:
            raise ShardError(
                f"{sample.key!r} has label {label}: {self.name} takes 0 to {10**LABEL_DIGITS - 1}"
            )
        return f"{label:0{LABEL_DIGITS}d}"

    def _file(self, sample: ExportSample) -> str:
        # by label, images of several folders share one: the whole key tells them apart
        return safe_name(sample.key.split("/")[-1] if self.classes == "key" else sample.key)
