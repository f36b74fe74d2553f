"""An output directory: made or refused, locked, cleared of debris, and described by plan, spec and fingerprint."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistok.errors import ShardError, TokenizerError
from vistok.shards.claims import ALL, Slice, claimed, lock_files, lock_path, other_jobs, setting_up
from vistok.shards.commit import made, remove_debris, write_file, write_if_different
from vistok.shards.failures import QUARANTINE
from vistok.shards.fingerprint import FILE_NAME as FINGERPRINT_NAME
from vistok.shards.fingerprint import Fingerprint, spec_hash
from vistok.shards.plan import Plan
from vistok.spec import TokenizerSpec

PLAN_NAME = "plan.json"
SPEC_NAME = "spec.json"
MADE_WITH_NAME = "made-with.jsonl"
# the plan goes last: where it stands, the directory is one of ours
_DESCRIPTION = (FINGERPRINT_NAME, SPEC_NAME, MADE_WITH_NAME, PLAN_NAME)


@dataclass(frozen=True)
class Description:
    """What the shards of a directory are.

    Args:
        plan: Which image goes where.
        spec: Of the tokenizer.
        fingerprint: Of the run.
    """

    plan: Plan
    spec: TokenizerSpec
    fingerprint: Fingerprint


@contextlib.contextmanager
def writing_into(out: Path, description: Description, part: Slice = ALL) -> Iterator[None]:
    """Makes an output directory, holds it alone or holds one slice, and says what it is; disk errors become one line.

    A run of everything that raises before any shard is there takes with it the directory, if it was made here, and those
    files that describe the shards which it made; quarantined images keep both, to be looked at.

    Raises:
        ShardError: it is a file or holds other things, another process writes there, it belongs to a run with another
            fingerprint (the message names the field), or the disk refuses.
    """
    if not out.is_dir() and (out.exists() or out.is_symlink()):
        raise ShardError(f"{out} is not a directory: give a new or empty one")
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(made(out))
            with setting_up(out, part):
                stack.enter_context(claimed(out, part))
                _clear(out, part, description.plan.shard_size)
                _check_contents(out)
                stack.enter_context(_taking_back(out, part))
                _describe(out, description, bool(other_jobs(out, part)))
            yield
            if not part.is_whole:
                lock_path(out, part).unlink(missing_ok=True)
    except OSError as error:
        raise ShardError(
            f"{out} cannot be written: {error.strerror or error}; finished shards are kept, "
            "run the same again once this is mended"
        ) from error


@contextlib.contextmanager
def _taking_back(out: Path, part: Slice) -> Iterator[None]:
    own = [out / name for name in _DESCRIPTION if not (out / name).exists()]
    try:
        yield
    except BaseException:
        if part.is_whole and not (_holds_shards(out) or _quarantined(out)):
            _remove([*own, *lock_files(out)])
        raise


def _clear(out: Path, part: Slice, shard_size: int) -> None:
    for folder in (out, out / QUARANTINE):
        if folder.is_dir():
            remove_debris(folder, lambda name: part.owns(name, shard_size))


def _describe(out: Path, description: Description, beside_others: bool) -> None:
    """Writes what the shards are, before the first one; where there are shards or other jobs, compares.

    Without them, what a run that was killed wrote here binds nobody and is replaced.
    """
    fingerprint = description.fingerprint
    if not (_holds_shards(out) or beside_others):
        _remove(_quarantined(out))
    elif (out / FINGERPRINT_NAME).exists():
        difference = Fingerprint.read(out).difference(fingerprint)
        if difference:
            raise ShardError(f"{out} holds shards of another run: {difference}; give another directory")
    write_if_different(out / PLAN_NAME, description.plan.to_json())
    write_if_different(out / SPEC_NAME, description.spec.to_json() + "\n")
    # last: where the fingerprint stands, plan and spec stand too
    write_if_different(out / FINGERPRINT_NAME, fingerprint.to_json())


def note_made_with(out: Path, fields: Mapping[str, Any]) -> None:
    """Appends versions, device, threads and batch size of this run, unless the run before had the same.

    They may change the last bits of a float, so they are recorded; they stand apart from the shards and their records,
    which are the same bytes whoever makes them.
    """
    path, line = out / MADE_WITH_NAME, json.dumps(fields, sort_keys=True)
    before = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if before[-1:] != [line]:
        write_file(path, "\n".join([*before, line]) + "\n")


def last_made_with(out: Path) -> dict[str, Any]:
    """What the latest run here recorded; empty if there is none, or it cannot be read."""
    try:
        last = json.loads((out / MADE_WITH_NAME).read_text(encoding="utf-8").splitlines()[-1])
    except (OSError, ValueError, IndexError, RecursionError):
        return {}
    return last if isinstance(last, dict) else {}


def check_written(out: Path) -> None:
    """Makes sure that a directory is one that ``encode`` wrote, damaged or not.

    Raises:
        ShardError: it is not there, or nothing in it is of ``encode``.
    """
    if not out.is_dir():
        raise ShardError(f"{out} is not a directory of token shards: nothing is there, or a file")
    if not ((out / FINGERPRINT_NAME).exists() or (out / PLAN_NAME).exists() or _holds_shards(out)):
        raise ShardError(f"{out} holds no token shards: give a directory that `vistok encode` wrote")


def read_plan(out: Path, marks: Fingerprint | None = None) -> Plan:
    """The plan of the shards in a directory; that of a fingerprint, if one is given.

    Raises:
        ShardError: the file is missing or damaged, or belongs to another run.
    """
    plan = Plan.from_json(_text(out / PLAN_NAME))
    if marks is not None and marks.fields.get("plan.keys_sha256", plan.keys_hash) != plan.keys_hash:
        raise ShardError(
            f"{out / PLAN_NAME} is not the plan of this run: its keys are others than the fingerprint says; "
            "run the same encode again to restore it"
        )
    return plan


def read_spec(out: Path, marks: Fingerprint | None = None) -> TokenizerSpec:
    """The spec of the tokenizer that made the shards in a directory; that of a fingerprint, if one is given.

    Raises:
        ShardError: the file is missing or damaged, or belongs to another run.
    """
    text = _text(out / SPEC_NAME)
    try:
        spec = TokenizerSpec.from_json(text)
        found = {"spec_sha256": spec_hash(json.loads(text)), "weights_hash": spec.weights_hash}
    except (TokenizerError, AttributeError, TypeError, RecursionError) as error:
        raise ShardError(f"{out / SPEC_NAME} is damaged: {error}") from error
    differing = [name for name in found if marks and marks.fields.get(name, found[name]) != found[name]]
    if differing:
        raise ShardError(
            f"{out / SPEC_NAME} is not the spec of this run: {differing[0]} differs from the fingerprint; "
            "run the same encode again to restore it"
        )
    return spec


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ShardError(f"{path} is damaged: it is not text") from error


def _check_contents(out: Path) -> None:
    for read in (read_plan, Fingerprint.read):  # a plan that was lost can be made again, and is compared
        with contextlib.suppress(ShardError):
            read(out)
            return
    strangers = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    if strangers:
        _remove(lock_files(out))
        raise ShardError(
            f"{out} holds {strangers[0]!r} and is not an output of vistok: give a new or empty directory"
        )


def _holds_shards(out: Path) -> bool:
    # a shard without its record counts too: the record may have been lost
    return any(out.glob("shard-*"))


def _quarantined(out: Path) -> list[Path]:
    return sorted((out / QUARANTINE).glob("[0-9]" * 9 + ".*"))


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
