"""The record beside each shard that says it is committed, and the index that is derived from all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from vistok.errors import ShardError
from vistok.shards.latents import combined
from vistok.shards.plan import Plan

INDEX_NAME = "index.json"
READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Sidecar:
    """What is known of one committed shard; always n_in = n_out + len(skipped).

    Args:
        file: Name of the shard.
        n_in: Samples that the plan gives it.
        n_out: Samples that it holds.
        skipped: Reason by key, of those that it does not hold.
        num_tokens: Positions of all its samples and streams.
        bytes: Its size.
        sha256: Its hash, in hex.
        fingerprint: Hash of the run's fingerprint.
        latents: By continuous stream, count, mean and summed squared deviations of each channel; not written if empty.
    """

    file: str
    n_in: int
    n_out: int
    skipped: Mapping[str, str]
    num_tokens: int
    bytes: int
    sha256: str
    fingerprint: str
    latents: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The record as JSON text."""
        data = {name: value for name, value in asdict(self).items() if name != "latents" or value}
        return json.dumps(data, indent=1, sort_keys=True) + "\n"

    @classmethod
    def read(cls, path: Path) -> Sidecar:
        """Reads what ``to_json`` wrote.

        Raises:
            ShardError: the file is missing, empty, damaged or contradicts itself.
        """
        try:
            data = json.loads(path.read_bytes())
        except OSError as error:
            raise ShardError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise ShardError(f"{path} is damaged: {error}") from error
        if not isinstance(data, dict) or {*data, "latents"} != {field.name for field in fields(cls)}:
            raise ShardError(f"{path} is damaged: it has not the fields of a shard's record")
        kinds = {"file": str, "sha256": str, "fingerprint": str, "skipped": dict, "latents": dict}
        if not all(type(value) is kinds.get(name, int) for name, value in data.items()):
            raise ShardError(f"{path} is damaged: a field has the wrong type")
        if Path(data["file"]).name != data["file"]:
            raise ShardError(f"{path} is damaged: {data['file']!r} is not the name of a file beside it")
        sidecar = cls(**data)
        if sidecar.n_in != sidecar.n_out + len(sidecar.skipped):
            raise ShardError(
                f"{path} is damaged: {sidecar.n_in} in is not {sidecar.n_out} out and {len(sidecar.skipped)} skipped"
            )
        combined([sidecar.latents])  # raises what is damaged in them
        return sidecar


def shard_name(shard: int, suffix: str) -> str:
    """File name of a shard; its sidecar has the suffix ``.json``."""
    return f"shard-{shard:06d}{suffix}"


def sidecar_path(out: Path, shard: int) -> Path:
    """Where the record of a shard lies."""
    return out / shard_name(shard, ".json")


def read_committed(out: Path, shard: int, fingerprint: str) -> Sidecar | None:
    """The record of a shard if it is committed: the record parses and the shard has the size that it says.

    Raises:
        ShardError: the shard is committed, by a run with another fingerprint.
    """
    try:
        sidecar = Sidecar.read(sidecar_path(out, shard))
        size = (out / sidecar.file).stat().st_size
    except (ShardError, OSError, ValueError):
        return None
    if size != sidecar.bytes or not sidecar.file.startswith(shard_name(shard, ".")):
        return None
    if sidecar.fingerprint != fingerprint:
        raise ShardError(f"{out / sidecar.file} belongs to another run: move it and its record away")
    return sidecar


def is_intact(out: Path, record: Sidecar) -> bool:
    """Whether a shard can be read and has the hash of its record."""
    try:
        return hash_file(out / record.file) == (record.sha256, record.bytes)
    except OSError:
        return False


def index_text(sidecars: Sequence[Sidecar], plan: Plan, fingerprint: str) -> str:
    """The index, as JSON text: totals, mean and standard deviation of latents, one line a shard; from the records alone."""
    totals: dict[str, Any] = {
        "fingerprint": fingerprint,
        "num_shards": len(sidecars),
        "num_shards_planned": plan.num_shards,
        "n_in": sum(s.n_in for s in sidecars),
        "n_out": sum(s.n_out for s in sidecars),
        "n_skipped": sum(len(s.skipped) for s in sidecars),
        "num_tokens": sum(s.num_tokens for s in sidecars),
        "bytes": sum(s.bytes for s in sidecars),
    }
    latents = combined(s.latents for s in sidecars)
    if latents:
        totals["latents"] = {
            name: {"count": found.count, "mean": found.mean.tolist(), "std": found.std.tolist()}
            for name, found in latents.items()
        }
    lines = [
        json.dumps(
            {
                "file": s.file,
                "n_in": s.n_in,
                "n_out": s.n_out,
                "n_skipped": len(s.skipped),
                "num_tokens": s.num_tokens,
                "bytes": s.bytes,
                "sha256": s.sha256,
            }
        )
        for s in sidecars
    ]
    head = json.dumps(totals, indent=1)[:-2]
    return head + ',\n "shards": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"


def hash_file(path: Path) -> tuple[str, int]:
    """The sha256 in hex and the size of a file, read in pieces."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            digest.update(piece)
            size += len(piece)
    return digest.hexdigest(), size
