"""Makes again what ``verify`` finds damaged, and nothing else, to the bytes that it had."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from vistok.data import ImageDataset
from vistok.errors import ShardError
from vistok.shards.allowed_skips import AllowedSkips
from vistok.shards.container import DEFAULT
from vistok.shards.directory import check_written, last_made_with, read_plan
from vistok.shards.encode import encode
from vistok.shards.engines import Engine, LocalEngine
from vistok.shards.fingerprint import FILE_NAME as FINGERPRINT_NAME
from vistok.shards.fingerprint import Fingerprint, fingerprint, tokenizer_dtype
from vistok.shards.latents import LatentFormat, LatentType
from vistok.shards.loading import KeyedImages
from vistok.shards.plan import Plan
from vistok.shards.sidecar import Sidecar, read_committed, sidecar_path
from vistok.shards.verify import foreign_files, verify
from vistok.tokenizer import Tokenizer

ASIDE = ".vistok-foreign"
# that of encode, for runs that did not record theirs
DEFAULT_MAX_ERROR_RATE = 0.05


@dataclass(frozen=True)
class RepairReport:
    """What was damaged and is not any more.

    Args:
        out: The directory.
        num_shards: Shards of the plan, all in order now.
        problems: What was found, one line each; empty if all was well.
        num_remade: Shards that were made again.
        moved: Names of files that are no part of the plan, which lie in ``.vistok-foreign`` now.
        lost: Keys of images that cannot be encoded and that no record says were left out before: of shards without a record.
    """

    out: Path
    num_shards: int
    problems: tuple[str, ...]
    num_remade: int
    moved: tuple[str, ...]
    lost: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The fields as JSON text."""
        return json.dumps({**asdict(self), "out": str(self.out)}, indent=1)

    def __str__(self) -> str:
        if not self.problems:
            return f"{self.out}: all {self.num_shards} shards were intact"
        moved = f", {len(self.moved)} foreign files moved to {self.out / ASIDE}" if self.moved else ""
        head = f"{self.out}: {self.num_remade} of {self.num_shards} shards made again{moved}; it had"
        left_out = [
            f"{key!r} cannot be encoded and is left out, no record says that it was before"
            for key in self.lost
        ]
        return "\n".join([head, *self.problems, *left_out])


def repair(
    tokenizer: Tokenizer,
    dataset: KeyedImages,
    out: str | Path,
    *,
    engine: Engine | None = None,
    progress: bool = True,
) -> RepairReport:
    """Makes shards again that are missing, cut, changed, or of another run, and the files that describe them.

    Shard size, precision, batch size and the policy for images that cannot be encoded are those that the directory records.
    An image that a shard left out may be left out again, and no other: the images of damaged shards are read before
    anything is replaced. Where a shard's record is lost, the run's error rate binds, and the report names what is left out.

    Args:
        tokenizer: That made the shards.
        dataset: The images that they were made of.
        out: What ``encode`` wrote into.
        engine: Who makes the shards; default: ``LocalEngine()``.
        progress: Show a bar.

    Raises:
        ShardError: it is no such directory, another tokenizer or other images, an image of a damaged shard that cannot be
            read any more, or an error of ``encode``.
    """
    out = Path(out)
    check_written(out)
    if isinstance(dataset, ImageDataset):
        dataset = dataset.fitted_to(tokenizer.spec)
    plan, marks, options = _recorded(tokenizer, dataset, out)
    before = verify(out)
    if before.ok:
        return RepairReport(out, before.num_shards, (), 0, ())
    options |= {"engine": engine, "progress": progress}
    allowed = AllowedSkips.read(out, plan, marks.sha256, options["max_error_rate"])
    options["max_error_rate"] = allowed.max_error_rate
    if allowed.any and options["on_error"] == "raise":
        options["on_error"] = "skip"
    # first what describes the shards, without which verify can tell nothing of them
    remade = _missing(out, plan, marks) | set(before.damaged)
    _remake(tokenizer, dataset, out, remade, allowed, options)
    after = verify(out)
    if after.damaged:
        _remake(tokenizer, dataset, out, set(after.damaged), allowed, options)
        remade |= set(after.damaged)
    moved = _move_foreign(out)
    found = dict.fromkeys((*before.problems, *after.problems))
    final = verify(out)
    if not final.ok:
        raise ShardError(
            f"{final.problems[0]}; repairing it did not help: does the disk hold what it is given?"
        )
    lost = allowed.lost(out, remade)
    return RepairReport(out, final.num_shards, tuple(found), len(remade), moved, lost)


def _remake(
    tokenizer: Tokenizer,
    dataset: KeyedImages,
    out: Path,
    shards: set[int],
    allowed: AllowedSkips,
    options: dict[str, Any],
) -> None:
    # with on_error="raise" the run itself ends at such an image
    if options["on_error"] != "raise":
        engine = options["engine"]
        workers = engine.workers if isinstance(engine, LocalEngine) else 0
        allowed.check(dataset, shards, tokenizer.spec.multiple_of, workers, options["progress"])
    encode(tokenizer, dataset, out, remake=shards, **options)


def _recorded(
    tokenizer: Tokenizer, dataset: KeyedImages, out: Path
) -> tuple[Plan, Fingerprint, dict[str, Any]]:
    """The plan and the fingerprint that this run must have, and the arguments of ``encode`` that give it."""
    made_with = last_made_with(out)
    try:
        recorded: Fingerprint | None = Fingerprint.read(out)
    except ShardError:
        recorded = None
    if recorded is not None:
        shard_size, precision = recorded.fields.get("plan.shard_size"), recorded.fields.get("dtype")
        box = str(recorded.fields.get("container"))
        storage = _storage(recorded)
    else:
        shard_size, box = read_plan(out).shard_size, str(made_with.get("container", DEFAULT))
        storage = LatentFormat(made_with.get("latents", "float32"), bool(made_with.get("moments")))
        precision = made_with.get("precision", str(tokenizer_dtype(tokenizer)).removeprefix("torch."))
    if not isinstance(shard_size, int):
        raise ShardError(f"{out / FINGERPRINT_NAME} has no shard size: it cannot be repaired")
    plan = Plan.of(dataset.keys(), shard_size)
    marks = fingerprint(tokenizer, dataset, plan, box, storage, precision)
    if recorded is None:
        # nothing but the records can vouch for the run that this tokenizer and these images would go on with
        vouching = any(sidecar.fingerprint == marks.sha256 for sidecar in _sidecars(out, plan).values())
        if not vouching:
            raise ShardError(
                f"{out / FINGERPRINT_NAME} is damaged, and no shard's record agrees with this tokenizer and these images"
            )
        (out / FINGERPRINT_NAME).unlink(missing_ok=True)
    elif difference := recorded.difference(marks):
        raise ShardError(f"{out} holds shards of another run: {difference}")
    options = {
        "shard_size": shard_size,
        "container": box,
        "latents": storage.dtype,
        "moments": storage.moments,
        "precision": precision,
        "batch_size": made_with.get("batch_size", 32),
        "on_error": made_with.get("on_error", "raise"),
        "compile": bool(made_with.get("compile")),
        "max_error_rate": _rate(made_with.get("max_error_rate")),
    }
    return plan, marks, options


def _storage(recorded: Fingerprint) -> LatentFormat:
    dtype = recorded.fields.get("latents.dtype", "float32")
    # LatentFormat refuses what is no type of latents
    return LatentFormat(cast(LatentType, dtype), recorded.fields.get("latents.moments") is True)


def _sidecars(out: Path, plan: Plan) -> dict[int, Sidecar]:
    found = {}
    for shard in range(plan.num_shards):
        try:
            found[shard] = Sidecar.read(sidecar_path(out, shard))
        except ShardError:
            continue
    return found


def _missing(out: Path, plan: Plan, marks: Fingerprint) -> set[int]:
    """Shards without a record that vouches for them, or of another size than it says, or of another run."""
    found = set()
    for shard in range(plan.num_shards):
        try:
            if read_committed(out, shard, marks.sha256) is None:
                found.add(shard)
        except ShardError:
            found.add(shard)
    return found


def _rate(recorded: Any) -> float:
    known = type(recorded) in (int, float) and 0 <= recorded <= 1
    return float(recorded) if known else DEFAULT_MAX_ERROR_RATE


def _move_foreign(out: Path) -> tuple[str, ...]:
    moved = []
    for path in foreign_files(out):
        (out / ASIDE).mkdir(exist_ok=True)
        path.replace(out / ASIDE / path.name)
        moved.append(path.name)
    return tuple(moved)
