"""Files that are whole or absent: temporary name, hash while writing, fsync, replace, fsync the directory.

A process that is killed at any moment leaves committed files and temporary ones, never a short file under its final
name. Temporary names start with a dot and are drawn at random, so that two processes never write into the same one; the
next run removes them while it holds the lock of the directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

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
    temp = path.with_name(f"{TEMP_PREFIX}{path.name}.{secrets.token_hex(4)}")
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)
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
def locked(path: Path, *, shared: bool = False, wait: float = 0.0) -> Iterator[None]:
    """Holds a lock file; the system frees it when the process ends, however it ends.

    Args:
        path: Of the file, which is made where it is missing, and stays.
        shared: Others may hold it shared too.
        wait: Seconds to wait for whoever holds it.

    Raises:
        BlockingIOError: another process holds it.
    """
    import fcntl  # POSIX only: reading shards works without it

    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    give_up = time.monotonic() + wait
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            # whoever held it may have removed it: ours would then be on a file that nobody else sees
            if os.path.samestat(os.fstat(fd), os.stat(path)):  # noqa: PTH116
                break
            os.close(fd)
        except (BlockingIOError, FileNotFoundError):
            os.close(fd)
            if time.monotonic() >= give_up:
                raise BlockingIOError(f"{path} is held by another process") from None
            time.sleep(0.05)
    _held.add(fd)
    try:
        yield
    finally:
        _held.discard(fd)
        os.close(fd)


def is_held(path: Path) -> bool:
    """Whether another process holds a lock file, in either way."""
    if not path.exists():
        return False
    try:
        with locked(path):
            return False
    except BlockingIOError:
        return True


def _drop_inherited_locks() -> None:
    """A forked data worker that outlives its killed parent must not keep the directory locked."""
    for fd in _held:
        with contextlib.suppress(OSError):
            os.close(fd)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_inherited_locks)


def remove_debris(folder: Path, of: Callable[[str], bool] = lambda name: True) -> list[str]:
    """Removes what dead runs left half-written; call it with the lock held.

    Args:
        folder: Where to look.
        of: Whether to remove what was to become a file of this name.

    Returns:
        The names removed.
    """
    removed = []
    for path in sorted(folder.glob(TEMP_PREFIX + "*")):
        if of(path.name.removeprefix(TEMP_PREFIX)):
            path.unlink(missing_ok=True)
            removed.append(path.name)
    return removed
