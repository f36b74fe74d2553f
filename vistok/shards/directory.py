"""An output directory: made or refused, locked, cleared of debris, and described by plan, spec and fingerprint."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vistok.errors import ShardError, TokenizerError
from vistok.shards.commit import LOCK_NAME, locked, made, remove_debris, write_file, write_if_different
from vistok.shards.failures import QUARANTINE
from vistok.shards.fingerprint import FILE_NAME as FINGERPRINT_NAME
from vistok.shards.fingerprint import Fingerprint
from vistok.shards.plan import Plan
from vistok.spec import TokenizerSpec

PLAN_NAME = "plan.json"
SPEC_NAME = "spec.json"
MADE_WITH_NAME = "made-with.jsonl"
# the plan goes last: where it stands, the directory is one of ours
_DESCRIPTION = (FINGERPRINT_NAME, SPEC_NAME, MADE_WITH_NAME, PLAN_NAME)


@contextlib.contextmanager
def writing_into(out: Path) -> Iterator[None]:
    """Makes an output directory and holds it alone; disk errors in the block become one line.

    A block that raises before any shard is there takes with it the directory, if it was made here, and the
    description of the shards; quarantined images keep both, to be looked at.

    Raises:
        ShardError: it is a file or holds other things, another process writes there, or the disk refuses.
    """
    if not out.is_dir() and (out.exists() or out.is_symlink()):
        raise ShardError(f"{out} is not a directory: give a new or empty one")
    try:
        with made(out), locked(out):
            remove_debris(out)
            if (out / QUARANTINE).is_dir():
                remove_debris(out / QUARANTINE)
            _check_contents(out)
            try:
                yield
            except BaseException:
                if not (_holds_shards(out) or _quarantined(out)):
                    _remove(out / name for name in (*_DESCRIPTION, LOCK_NAME))
                raise
    except OSError as error:
        raise ShardError(
            f"{out} cannot be written: {error.strerror or error}; finished shards are kept, "
            "run the same again once this is mended"
        ) from error


def describe(out: Path, plan: Plan, spec: TokenizerSpec, fingerprint: Fingerprint) -> None:
    """Writes what the shards are, before the first one; in a directory that holds shards, compares.

    Without shards, what a run that was killed wrote here binds nobody and is replaced.

    Raises:
        ShardError: the directory belongs to a run with another fingerprint; the message names the field.
    """
    if not _holds_shards(out):
        _remove(_quarantined(out))
    elif (out / FINGERPRINT_NAME).exists():
        difference = Fingerprint.read(out).difference(fingerprint)
        if difference:
            raise ShardError(f"{out} holds shards of another run: {difference}; give another directory")
    write_if_different(out / PLAN_NAME, plan.to_json())
    write_if_different(out / SPEC_NAME, spec.to_json() + "\n")
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


def check_written(out: Path) -> None:
    """Makes sure that a directory is one that ``encode`` wrote, damaged or not.

    Raises:
        ShardError: it is not there, or nothing in it is of ``encode``.
    """
    if not out.is_dir():
        raise ShardError(f"{out} is not a directory of token shards: nothing is there, or a file")
    if not ((out / FINGERPRINT_NAME).exists() or (out / PLAN_NAME).exists() or _holds_shards(out)):
        raise ShardError(f"{out} holds no token shards: give a directory that `vistok encode` wrote")


def read_plan(out: Path) -> Plan:
    """The plan of the shards in a directory.

    Raises:
        ShardError: the file is missing or damaged.
    """
    return Plan.from_json(_text(out / PLAN_NAME))


def read_spec(out: Path) -> TokenizerSpec:
    """The spec of the tokenizer that made the shards in a directory.

    Raises:
        ShardError: the file is missing or damaged.
    """
    try:
        return TokenizerSpec.from_json(_text(out / SPEC_NAME))
    except (TokenizerError, AttributeError, TypeError, RecursionError) as error:
        raise ShardError(f"{out / SPEC_NAME} is damaged: {error}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ShardError(f"{path} is damaged: it is not text") from error


def _check_contents(out: Path) -> None:
    if (out / PLAN_NAME).exists():
        return
    strangers = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    if strangers:
        _remove([out / LOCK_NAME])
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
