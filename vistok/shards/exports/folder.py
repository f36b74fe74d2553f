"""An exported folder: written out of sight, renamed when it is whole, and described by a record of what is in it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vistok.errors import ShardError
from vistok.shards.commit import locked, made, sync_directory
from vistok.shards.fingerprint import Fingerprint
from vistok.shards.sidecar import hash_file

# hidden: readers that take every file of a folder leave it alone
RECORD_NAME = ".vistok-export.json"
TEMP_PREFIX = ".vistok-export-temp-"
LOCK_NAME = "lock"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Contents:
    """Files of a folder: how many, their bytes, and a sha256 over all names, sizes and hashes."""

    num_files: int
    bytes: int
    sha256: str


@contextlib.contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """Gives an empty folder that becomes ``out`` when the block ends, and goes away if it raises.

    What a killed run left behind is removed by the next one to the same place.

    Raises:
        ShardError: another process exports to the same place, or the disk refuses.
    """
    room = out.with_name(TEMP_PREFIX + out.name)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(made(out.parent))
            room.mkdir(exist_ok=True)
            try:
                stack.enter_context(locked(room / LOCK_NAME))
            except BlockingIOError:
                raise ShardError(
                    f"{out} is being exported to by another process: wait for it, or give another folder"
                ) from None
            stack.callback(shutil.rmtree, room, ignore_errors=True)
            folder = room / "new"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            yield folder
            folder.rename(out)
            sync_directory(out.parent)
    except OSError as error:
        raise ShardError(
            f"{out} cannot be written: {error.strerror or error}; nothing was left there, mend this and run it again"
        ) from error


def seal(folder: Path, request: Fingerprint, summary: Mapping[str, Any]) -> Contents:
    """Hashes all files of a finished folder, makes them durable, and writes the record that describes them."""
    contents = contents_of(folder, durable=True)
    record = {
        "format_version": FORMAT_VERSION,
        "request": dict(request.fields),
        "contents": asdict(contents),
        "summary": dict(summary),
    }
    with (folder / RECORD_NAME).open("w", encoding="utf-8") as file:
        file.write(json.dumps(record, indent=1, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())
    for directory, _, _ in os.walk(folder):
        sync_directory(Path(directory))
    return contents


def already_there(out: Path, request: Fingerprint) -> tuple[Contents, dict[str, Any]] | None:
    """What an earlier run with the same request left in ``out``; None if nothing is there.

    Raises:
        ShardError: something else is there, or what is there was changed.
    """
    if not out.is_dir():
        if out.exists() or out.is_symlink():
            raise ShardError(f"{out} is not a directory: give a new or empty one")
        return None
    names = sorted(path.name for path in out.iterdir())
    if not names:
        return None
    if RECORD_NAME not in names:
        raise ShardError(f"{out} holds {names[0]!r} and is not an export: give a new or empty directory")
    try:
        record = json.loads((out / RECORD_NAME).read_bytes())
        before, contents = Fingerprint(dict(record["request"])), Contents(**record["contents"])
        summary = dict(record["summary"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ShardError(
            f"{out / RECORD_NAME} is damaged: remove {out}, or give another directory"
        ) from error
    difference = before.difference(request)
    if difference:
        raise ShardError(f"{out} holds another export: {difference}; remove it, or give another directory")
    if contents_of(out) != contents:
        raise ShardError(f"{out} was changed since it was exported: remove it, or give another directory")
    return contents, summary


def contents_of(folder: Path, durable: bool = False) -> Contents:
    """Reads all files of a folder but the record.

    Args:
        folder: What to read.
        durable: Also make sure that each file is on the disk.
    """
    total, count, digest = 0, 0, hashlib.sha256()
    for path in _files(folder):
        file_hash, size = hash_file(path)
        if durable:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name}\0{size}\0{file_hash}\n".encode("utf-8", "surrogateescape"))
        total, count = total + size, count + 1
    return Contents(count, total, digest.hexdigest())


def _files(folder: Path) -> Iterator[Path]:
    for directory, directories, names in os.walk(folder):
        directories.sort()
        for name in sorted(names):
            if name != RECORD_NAME:
                yield Path(directory) / name
