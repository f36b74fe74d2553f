"""Committed shards of any tokens that a test likes, without a tokenizer: through the real container, plan and records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vistok.shards.commit import replacing, write_file
from vistok.shards.container import Origin, Sample, container
from vistok.shards.directory import Description, writing_into
from vistok.shards.exports import ExportSummary, export
from vistok.shards.fingerprint import Fingerprint
from vistok.shards.plan import Plan
from vistok.shards.sidecar import Sidecar, shard_name, sidecar_path
from vistok.spec import LatentSpec, StreamSpec, TokenizerSpec, index_dtype


def discrete(
    codebook_size: int = 1000, num_groups: int = 1, names: Sequence[str] = ("pixel",)
) -> TokenizerSpec:
    streams = [StreamSpec(name=n, codebook_size=codebook_size, num_groups=num_groups) for n in names]
    return TokenizerSpec(name="made", kind="discrete", streams=tuple(streams))


def continuous(channels: int = 4, **latents: Any) -> TokenizerSpec:
    stream = StreamSpec(codebook_size=None, dim=channels)
    return TokenizerSpec(
        name="made", kind="continuous", streams=(stream,), latents=LatentSpec(channels=channels, **latents)
    )


def grid_of(count: int) -> tuple[int, ...]:
    side = int(count**0.5)
    return (side, side) if side * side == count else (count,)


def write_shards(
    out: Path,
    arrays: Mapping[str, Any],
    spec: TokenizerSpec,
    fields: Mapping[str, Mapping[str, Any]] | None = None,
    shard_size: int = 3,
    finished: int | None = None,
) -> Path:
    """Writes shards that ``vistok.shards.open`` reads.

    Args:
        arrays: By key: indices (N, S) or latents (N, D); with several streams, those by stream.
        fields: By key: label, caption, size, ...
        finished: Number of shards to commit; all if None.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    plan, box = Plan.of(arrays, shard_size), container("tar")
    marks = Fingerprint(
        {
            "container": "tar",
            "plan.num_samples": plan.num_samples,
            "plan.shard_size": plan.shard_size,
            "plan.keys_sha256": plan.keys_hash,
        }
    )
    with writing_into(out, Description(plan, spec, marks)):
        for shard in range(plan.num_shards if finished is None else finished):
            samples = [_sample(n, plan.keys[n], arrays, spec, fields or {}) for n in plan.numbers(shard)]
            with replacing(out / shard_name(shard, box.suffix)) as file:
                box.write(file, samples, Origin(marks.sha256, spec))
            tokens = sum(len(array) for sample in samples for array in sample.arrays.values())
            sidecar = Sidecar(
                shard_name(shard, box.suffix),
                len(samples),
                len(samples),
                {},
                tokens,
                file.size,
                file.sha256,
                marks.sha256,
            )
            write_file(sidecar_path(out, shard), sidecar.to_json())
    return out


def _sample(
    number: int,
    key: str,
    arrays: Mapping[str, Any],
    spec: TokenizerSpec,
    fields: Mapping[str, Mapping[str, Any]],
) -> Sample:
    given = arrays[key] if isinstance(arrays[key], Mapping) else {spec.main.name: arrays[key]}
    typed = {
        stream.name: np.ascontiguousarray(
            given[stream.name],
            dtype=index_dtype(stream.codebook_size) if stream.codebook_size else np.float32,
        )
        for stream in spec.streams
    }
    grids = {name: list(grid_of(len(array))) for name, array in typed.items()}
    return Sample(number, typed, {"key": key, "size": [16, 16], "grid": grids, **fields.get(key, {})})


def random_tokens(
    count: int = 7, tokens: int = 16, codebook_size: int = 1000, groups: int = 1
) -> dict[str, Any]:
    """Indices of images ``image_00`` and so on, int64 (tokens, groups)."""
    draw = np.random.default_rng(0)
    return {f"image_{i:02d}": draw.integers(codebook_size, size=(tokens, groups)) for i in range(count)}


def labels(arrays: Mapping[str, Any], **more: Any) -> dict[str, dict[str, Any]]:
    """Labels 0, 1, 2, ... in the order of the keys."""
    return {key: {"label": i, **more} for i, key in enumerate(sorted(arrays))}


def with_flips(
    count: int = 5, channels: int = 4, side: int = 4
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Latents of images and their flips, and their fields."""
    draw = np.random.default_rng(1)
    arrays, fields = {}, {}
    for i in range(count):
        key = f"class_{i % 2}/image {i}"
        for view in ("", "flip"):
            name = f"{key}#{view}" if view else key
            arrays[name] = draw.normal(size=(side * side, channels)).astype(np.float32)
            fields[name] = {"label": i % 2, "source": key, **({"view": view} if view else {})}
    return arrays, fields


def exported(shards: Path, to: Any, out: Path, **options: Any) -> ExportSummary:
    return export(shards, to, out, progress=False, **options)


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture(scope="session")
def tokens_made(tmp_path_factory) -> Path:
    """Seven labelled images of 16 tokens of 1000 codes."""
    arrays = random_tokens()
    return write_shards(tmp_path_factory.mktemp("made") / "tokens", arrays, discrete(), labels(arrays))


@pytest.fixture(scope="session")
def latents_made(tmp_path_factory) -> Path:
    """Five images with their flips, 16 latents of 4 channels."""
    arrays, fields = with_flips()
    return write_shards(tmp_path_factory.mktemp("made") / "latents", arrays, continuous(), fields)
