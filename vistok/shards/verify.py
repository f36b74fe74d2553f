"""Looks for any damage in a directory of token shards: hashes, counts, records, the index, and each sample."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from vistok.errors import ShardError
from vistok.shards.container import Container, Sample, container
from vistok.shards.directory import check_written, read_plan, read_spec
from vistok.shards.fingerprint import Fingerprint
from vistok.shards.latents import LatentStatistics
from vistok.shards.plan import Plan
from vistok.shards.sidecar import INDEX_NAME, Sidecar, hash_file, index_text, shard_name, sidecar_path
from vistok.spec import TokenizerSpec


@dataclass(frozen=True)
class VerifyReport:
    """What verification found.

    Args:
        out: The directory.
        num_shards: Shards that are in order.
        num_samples: Samples that these hold.
        num_skipped: Images that these leave out, with a reason.
        bytes: Their size.
        problems: One line each; empty if all is well.
        damaged: Numbers of the shards that are not in order, where that can be told.
    """

    out: Path
    num_shards: int
    num_samples: int
    num_skipped: int
    bytes: int
    problems: tuple[str, ...]
    damaged: tuple[int, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_json(self) -> str:
        """The fields as JSON text, and whether nothing is wrong as ``ok``."""
        return json.dumps({"ok": self.ok, **asdict(self), "out": str(self.out)}, indent=1)

    def __str__(self) -> str:
        state = (
            "intact" if self.ok else f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}"
        )
        head = f"{self.out}: {state}; {self.num_shards} good shards, {self.num_samples} samples"
        return "\n".join([f"{head}, {self.num_skipped} skipped, {self.bytes / 1e6:.1f} MB", *self.problems])


def verify(out: str | Path, full: bool = True) -> VerifyReport:
    """Checks everything that ``encode`` wrote.

    Args:
        out: What ``encode`` wrote into.
        full: Read every shard, to compare hashes and open each sample; False compares sizes and records only.

    Raises:
        ShardError: there is no such directory, or no shards in it. Damage is reported, not raised.
    """
    out = Path(out)
    check_written(out)
    try:
        marks, plan, spec = Fingerprint.read(out), read_plan(out), read_spec(out)
        box = container(str(marks.fields.get("container")))
    except ShardError as error:
        return VerifyReport(out, 0, 0, 0, 0, (str(error),))
    problems = list(_description_problems(out, marks, plan))
    try:
        read_spec(out, marks)
    except ShardError as error:
        problems.append(str(error))
    good: list[Sidecar] = []
    damaged: list[int] = []
    for shard in range(plan.num_shards):
        try:
            good.append(_check_shard(out, shard, marks, plan, spec, box, full))
        except ShardError as error:
            problems.append(str(error))
            damaged.append(shard)
    problems += [f"{path} is not in the plan: it does not belong here" for path in _foreign(out, plan, box)]
    problems += _index_problems(out, good, plan, marks)
    return VerifyReport(
        out=out,
        num_shards=len(good),
        num_samples=sum(s.n_out for s in good),
        num_skipped=sum(len(s.skipped) for s in good),
        bytes=sum(s.bytes for s in good),
        problems=tuple(problems),
        damaged=tuple(damaged),
    )


def _description_problems(out: Path, marks: Fingerprint, plan: Plan) -> Iterator[str]:
    planned = {
        "plan.num_samples": plan.num_samples,
        "plan.shard_size": plan.shard_size,
        "plan.keys_sha256": plan.keys_hash,
    }
    for name, value in planned.items():
        if marks.fields.get(name) != value:
            yield f"{out / 'plan.json'} is not the plan of this run: {name} differs from the fingerprint"


def _check_shard(
    out: Path, shard: int, marks: Fingerprint, plan: Plan, spec: TokenizerSpec, box: Container, full: bool
) -> Sidecar:
    path = out / shard_name(shard, box.suffix)
    record = sidecar_path(out, shard)
    if not record.exists():
        state = "has no record beside it" if path.exists() else "is missing"
        raise ShardError(f"{path} {state}: run encode again")
    sidecar = Sidecar.read(record)
    if sidecar.file != path.name:
        raise ShardError(f"{record} is about another file, {sidecar.file}")
    if sidecar.fingerprint != marks.sha256:
        raise ShardError(f"{path} belongs to another run: its record has another fingerprint")
    numbers = plan.numbers(shard)
    if sidecar.n_in != len(numbers):
        raise ShardError(f"{record} counts {sidecar.n_in} images, the plan has {len(numbers)}")
    keys = plan.keys[numbers.start : numbers.stop]
    strangers = sorted(set(sidecar.skipped) - set(keys))
    if strangers:
        raise ShardError(f"{record} skips {strangers[0]!r}, which is not in this shard")
    try:
        size = path.stat().st_size
        if size != sidecar.bytes:
            raise ShardError(f"{path} has {size} bytes, its record says {sidecar.bytes}")
        if full and hash_file(path)[0] != sidecar.sha256:
            raise ShardError(f"{path} is damaged: its hash is not the one in its record")
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error.strerror}") from error
    if full:
        moments = marks.fields.get("latents.moments") is True
        expected = [number for number, key in zip(numbers, keys, strict=True) if key not in sidecar.skipped]
        _check_samples(path, sidecar, expected, plan, spec, box, moments)
    return sidecar


def _check_samples(
    path: Path,
    sidecar: Sidecar,
    expected: list[int],
    plan: Plan,
    spec: TokenizerSpec,
    box: Container,
    moments: bool,
) -> None:
    shard = box.open(path)
    if shard.fingerprint not in ("", sidecar.fingerprint):
        raise ShardError(f"{path} belongs to another run: it has another fingerprint than its record")
    if shard.numbers.tolist() != expected:
        raise ShardError(
            f"{path} holds {len(shard.numbers)} samples, not the {len(expected)} of plan and record"
        )
    num_tokens, statistics = 0, LatentStatistics(moments)
    for position, number in enumerate(expected):
        sample = shard.read(position)
        if sample.meta["key"] != plan.keys[number]:
            raise ShardError(
                f"{path}: sample {number} is {sample.meta['key']!r}, the plan says {plan.keys[number]!r}"
            )
        num_tokens += _check_tokens(path, sample, spec)
        statistics.add(sample.arrays)
    if num_tokens != sidecar.num_tokens:
        raise ShardError(f"{path} holds {num_tokens} tokens, its record says {sidecar.num_tokens}")
    if not statistics.agree_with(sidecar.latents):
        raise ShardError(f"{path} holds latents of another mean or deviation than its record says")


def _check_tokens(path: Path, sample: Sample, spec: TokenizerSpec) -> int:
    if set(sample.arrays) != {stream.name for stream in spec.streams}:
        raise ShardError(
            f"{path}: sample {sample.number} has streams {sorted(sample.arrays)}, the spec has others"
        )
    for stream in spec.streams:
        array = sample.arrays[stream.name]
        if array.dtype.kind == "u" and (
            stream.codebook_size is None or int(array.max(initial=0)) >= stream.codebook_size
        ):
            raise ShardError(
                f"{path}: sample {sample.number} has an index outside [0, {stream.codebook_size})"
            )
    return sum(len(array) for array in sample.arrays.values())


def foreign_files(out: Path) -> list[Path]:
    """Files that are named like shards and are not in the plan.

    Raises:
        ShardError: plan or fingerprint are damaged.
    """
    return _foreign(out, read_plan(out), container(str(Fingerprint.read(out).fields.get("container"))))


def _foreign(out: Path, plan: Plan, box: Container) -> list[Path]:
    own = {shard_name(i, suffix) for i in range(plan.num_shards) for suffix in (box.suffix, ".json")}
    return [path for path in sorted(out.glob("shard-*")) if path.name not in own]


def _index_problems(out: Path, good: list[Sidecar], plan: Plan, marks: Fingerprint) -> Iterator[str]:
    path = out / INDEX_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        # the index comes last: without it a run that has not ended is in order
        if len(good) == plan.num_shards:
            yield f"{path} cannot be read: {error.strerror}; run encode again to rebuild it"
        return
    except UnicodeDecodeError:
        yield f"{path} is damaged: it is not text; run encode again to rebuild it"
        return
    try:
        expected = index_text(good, plan, marks.sha256)
    except ShardError as error:
        yield f"{path} cannot be compared: {error}"
        return
    if text != expected:
        if len(good) < plan.num_shards:
            yield f"{path} names shards that are missing or damaged"
        else:
            yield f"{path} does not agree with the shards; run encode again to rebuild it"
