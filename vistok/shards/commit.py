"""Files that are whole or absent: temporary name, hash while writing, fsync, replace, fsync the directory.

A process that is killed at any moment leaves committed files and temporary ones, never a short file under its final
name. Temporary names start with a dot; the next run removes them while it holds the lock of the directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from vistok.errors import ShardError

LOCK_NAME = ".vistok-lock"
TEMP_PREFIX = ".vistok-temp-"
BUFFER_BYTES = 1 << 20

_held: set[int] = set()


class HashedFile:
    """A file that is being written: buffers, counts and hashes all that passes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = bytearray()
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        """Appends bytes."""
        self._buffer += data
        self._digest.update(data)
        self.size += len(data)
        if len(self._buffer) >= BUFFER_BYTES:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Hands the buffer to the system."""
        view = memoryview(bytes(self._buffer))
        self._buffer.clear()
        while view:
            view = view[os.write(self._fd, view) :]

    @property
    def sha256(self) -> str:
        """Hash of everything written so far, in hex."""
        return self._digest.hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[HashedFile]:
    """A file that appears under ``path`` when the block ends, and not at all if the block raises."""
    temp = path.with_name(TEMP_PREFIX + path.name)
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        try:
            file = HashedFile(fd)
            yield file
            file.flush()
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temp, path)  # noqa: PTH105  (the tests count the calls of os)
    except BaseException:
        with contextlib.suppress(OSError):
            temp.unlink()
        raise
    sync_directory(path.parent)


def write_file(path: Path, text: str) -> None:
    """Writes a small text file, whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())


def write_if_different(path: Path, text: str) -> None:
    """Writes a small text file unless it holds that text already."""
    try:
        if path.read_bytes() == text.encode():
            return
    except OSError:
        pass
    write_file(path, text)


def sync_directory(directory: Path) -> None:
    """Makes the renames in a directory durable."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def made(folder: Path) -> Iterator[None]:
    """Makes a directory and its parents; if the block raises, those of them that are empty go away again."""
    missing = [directory for directory in (folder, *folder.parents) if not directory.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for directory in missing:
                directory.rmdir()
        raise


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Holds the one lock of an output directory; the system frees it when the process ends, however it ends.

    Raises:
        ShardError: another process holds it.
    """
    import fcntl  # POSIX only: reading shards works without it

    fd = os.open(out / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # a run that ended without a shard removes its lock: ours would then be on a file that nobody else sees
            if not os.path.samestat(os.fstat(fd), os.stat(out / LOCK_NAME)):  # noqa: PTH116
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError):
            raise ShardError(
                f"{out} is being written by another process: wait for it, or give another directory"
            ) from None
        _held.add(fd)
        yield
    finally:
        _held.discard(fd)
        os.close(fd)


def _drop_inherited_locks() -> None:
    """A forked data worker that outlives its killed parent must not keep the directory locked."""
    for fd in _held:
        with contextlib.suppress(OSError):
            os.close(fd)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_inherited_locks)


def remove_debris(out: Path) -> list[str]:
    """Removes what dead runs left half-written; call it with the lock held. Returns the names removed."""
    removed = []
    for path in sorted(out.glob(TEMP_PREFIX + "*")):
        path.unlink()
        removed.append(path.name)
    return removed
