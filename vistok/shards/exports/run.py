"""Committed shards to the files of some training code: all of them, or nothing."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vistok.errors import ShardError
from vistok.shards.exports.base import ExportFormat
from vistok.shards.exports.folder import Contents, already_there, appearing, seal
from vistok.shards.exports.source import Source
from vistok.shards.fingerprint import Fingerprint
from vistok.shards.progress import Progress
from vistok.shards.reader import ShardDataset
from vistok.spec import StreamSpec


@dataclass(frozen=True)
class ExportSummary:
    """What is in the output directory.

    Args:
        out: The directory.
        format: Name of the format.
        num_samples: Samples of the shards that it holds.
        num_tokens: Their indices, or positions of latents; special tokens are not counted.
        num_files: Files there.
        bytes: Their size.
        sha256: Hash over names and contents of all files.
        seconds: How long it took; 0 if all was there already.
        notes: What the caller should know.
    """

    out: Path
    format: str
    num_samples: int
    num_tokens: int
    num_files: int
    bytes: int
    sha256: str
    seconds: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = (
            f"{self.out}: {self.num_samples} samples, {self.num_tokens} tokens as {self.format}, "
            f"{self.num_files} file{'s' if self.num_files > 1 else ''}, {self.bytes / 1e6:.1f} MB"
        )
        if not self.seconds:
            return f"{text}; all of it was there already"
        return f"{text}; {self.seconds:.1f} s ({self.num_samples / self.seconds:.0f} samples/s)"

    def to_json(self) -> str:
        """The fields as JSON text."""
        return json.dumps({**asdict(self), "out": str(self.out)}, indent=1) + "\n"


def export(
    shards: str | Path,
    to: ExportFormat,
    out: str | Path,
    *,
    stream: str | None = None,
    partial: bool = False,
    progress: bool = True,
) -> ExportSummary:
    """Writes committed shards as another format.

    The output directory appears when it is whole. If it is there already, from the same shards by the same settings,
    nothing is done. The same shards give the same bytes, with one version of the format's own writer.

    Args:
        shards: What ``encode`` wrote into.
        to: One of ``vistok.shards.exports``, with its settings.
        out: A directory that is new or empty.
        stream: Name of the token stream; needed where the tokenizer has several.
        partial: Take what is committed of an unfinished run; otherwise that is refused.
        progress: Show a bar.

    Raises:
        ShardError: shards that are damaged, unfinished or of the wrong kind, settings that do not fit them, a package that
            is not installed, or an output directory that cannot be used.
    """
    out = Path(out)
    dataset = _opened(Path(shards), partial)
    chosen = _streams(dataset, to, stream)
    _check_packages(to)
    place = out.resolve()
    if place == dataset.path.resolve() or dataset.path.resolve() in place.parents:
        raise ShardError(f"{out} lies in the shards themselves: give another directory")
    bar = Progress(len(dataset), what="export", shown=progress)
    source = Source(dataset, chosen, bar.advance)
    to.check(source)
    request = _request(dataset, to, chosen)
    there = already_there(out, request)
    if there is not None:
        contents, told = there
        return _summary(out, to, contents, told, 0.0)
    with appearing(place) as folder:
        # the lock is ours only now: another process may have been here in between
        if already_there(out, request) is not None:
            raise ShardError(
                f"{out} was exported by another process meanwhile: run it again to see what is there"
            )
        with bar:
            notes = [*to.write(source, folder), *_unfinished(dataset)]
        told = {"num_samples": source.num_samples, "num_tokens": source.num_tokens, "notes": notes}
        contents = seal(folder, request, told)
    return _summary(out, to, contents, told, bar.seconds)


def _summary(
    out: Path, to: ExportFormat, contents: Contents, told: Mapping[str, Any], seconds: float
) -> ExportSummary:
    return ExportSummary(
        out=out,
        format=to.name,
        num_samples=told["num_samples"],
        num_tokens=told["num_tokens"],
        num_files=contents.num_files,
        bytes=contents.bytes,
        sha256=contents.sha256,
        seconds=seconds,
        notes=tuple(told["notes"]),
    )


def _opened(shards: Path, partial: bool) -> ShardDataset:
    with warnings.catch_warnings():
        # what it would warn of is refused below, or was asked for
        warnings.simplefilter("ignore", UserWarning)
        dataset = ShardDataset(shards)
    done, planned = len(dataset.sidecars), dataset.plan.num_shards
    if done < planned and not partial:
        raise ShardError(
            f"only {done} of {planned} shards of {shards} are finished: run encode to the end, "
            "or give --partial to export these"
        )
    if not len(dataset):
        raise ShardError(f"the shards of {shards} hold no sample: all images were skipped")
    return dataset


def _unfinished(dataset: ShardDataset) -> list[str]:
    done, planned = len(dataset.sidecars), dataset.plan.num_shards
    return [f"these are {done} of {planned} shards, the rest is not finished"] if done < planned else []


def _streams(dataset: ShardDataset, to: ExportFormat, name: str | None) -> list[StreamSpec]:
    streams = {stream.name: stream for stream in dataset.spec.streams}
    if name is not None and name not in streams:
        raise ShardError(f"there is no stream {name!r} in {dataset.path}: there is {', '.join(streams)}")
    if name is None and len(streams) > 1 and not to.many_streams:
        raise ShardError(
            f"{dataset.path} has several token streams and {to.name} holds one: give --stream {' or '.join(streams)}"
        )
    chosen = list(streams.values()) if name is None else [streams[name]]
    kind = "continuous" if chosen[0].codebook_size is None else "discrete"
    if to.kind not in ("any", kind):
        held, others = (
            ("indices", "lightningdit, mar, mds or parquet")
            if to.kind == "discrete"
            else ("latents", "a format for tokens, such as megatron or parquet")
        )
        raise ShardError(
            f"{to.name} holds {held}, and the shards of {dataset.path} are {kind}: export to {others}, "
            f"or encode with a {to.kind} tokenizer"
        )
    return chosen


def _check_packages(to: ExportFormat) -> None:
    for module, package in to.packages.items():
        if importlib.util.find_spec(module) is None:
            raise ShardError(
                f"{to.name} is written by {package}, which is not installed: pip install {package}"
            )


def _request(dataset: ShardDataset, to: ExportFormat, streams: list[StreamSpec]) -> Fingerprint:
    """All that decides the bytes, apart from the versions of the writers: which samples, and which settings."""
    shards = hashlib.sha256("".join(sidecar.sha256 for sidecar in dataset.sidecars).encode())
    settings: dict[str, Any] = {}
    for name, value in asdict(to).items():
        if isinstance(value, dict):
            settings |= {f"settings.{name}.{inner}": setting for inner, setting in value.items()}
        else:
            settings[f"settings.{name}"] = value
    return Fingerprint(
        {
            "format": to.name,
            "streams": [stream.name for stream in streams],
            "source.fingerprint": dataset.fingerprint.sha256,
            "source.shards": shards.hexdigest(),
            **settings,
        }
    )
