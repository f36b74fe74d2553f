"""Shards that a shell command prints, kept on disk while they are needed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from vistok.errors import DataError

PREFIX = "pipe:"
READ_BYTES = 1 << 20
FOLDER_PREFIX = "vistok-pipes-"
OWNER_NAME = "owner"
# a folder is younger than that while its owner is about to lock it
YOUNG_SECONDS = 60.0


class PipedShards:
    """Runs commands and gives what they print as files, of which the newest ``max_bytes`` stay in a temporary folder.

    All processes of a run share the folder, so each command runs as rarely as its output is dropped. A command that
    prints something else the second time is an error. The folder goes with the object that made it; that of a
    process that was killed goes when the next one is made.

    Raises:
        DataError: there are commands, and the system is not POSIX.

    Args:
        commands: What ``sh -c`` runs; the output is a tar.
        max_bytes: Disk space for outputs, in the folder that TMPDIR names; the newest one stays in any case.
    """

    def __init__(self, commands: Sequence[str], max_bytes: int = 8 << 30) -> None:
        self.folder = room = Path(tempfile.gettempdir())
        self._owner: BinaryIO | None = None
        if commands:
            if os.name != "posix":
                raise DataError(
                    f"{PREFIX}{commands[0]} needs a POSIX system: write its output to a .tar, and give that"
                )
            _remove_debris(room)
            self.folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
            self._owner = _held(self.folder / OWNER_NAME)
            # forked workers inherit this object, and must leave the folder to the process that made it
            weakref.finalize(self, _remove, self.folder, os.getpid())
        self.max_bytes = max_bytes
        self._commands = {self.folder / f"{i:06d}.tar": command for i, command in enumerate(commands)}
        self._hashes: dict[Path, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_owner": None}

    @property
    def paths(self) -> list[Path]:
        """Where the output of each command lies, when it is there."""
        return list(self._commands)

    def __contains__(self, path: Path) -> bool:
        return path in self._commands

    def name(self, path: Path) -> str:
        """The command as the user wrote it."""
        return f"{PREFIX}{self._commands[path]}"

    def fetch(self, path: Path) -> None:
        """Runs the command for the first time, and remembers what it printed.

        Raises:
            DataError: as for ``open``.
        """
        self.open(path).close()

    def open(self, path: Path) -> BinaryIO:
        """The output of a command, from its start.

        Raises:
            DataError: the command fails, its output does not fit on the disk, or differs from that of the first time.
        """
        import fcntl  # POSIX only, as /bin/sh is

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not path.exists():
                    self._run(path)
                return path.open("rb")
        except OSError as error:
            raise DataError(
                f"the output of {self.name(path)!r} cannot be kept in {str(self.folder)!r}: {error.strerror or error}; "
                "give it room, or name another place in TMPDIR"
            ) from error

    def _run(self, path: Path) -> None:
        temp = path.with_suffix(".part")
        try:
            digest = self._print_into(temp, path)
            if self._hashes.setdefault(path, digest) != digest:
                raise DataError(
                    f"{self.name(path)!r} prints something else than before: give a command that always prints the same"
                )
            self._make_room(temp.stat().st_size)
            temp.rename(path)
        finally:
            temp.unlink(missing_ok=True)

    def _print_into(self, temp: Path, path: Path) -> str:
        """Runs the command into a file; the sha256 of what it printed."""
        digest = hashlib.sha256()
        with temp.open("wb") as file, tempfile.TemporaryFile() as told:
            process = subprocess.Popen(
                ["/bin/sh", "-c", self._commands[path]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=told,
                start_new_session=True,  # so that the shell and all that it started can be ended together
            )
            assert process.stdout is not None
            try:
                while piece := process.stdout.read(READ_BYTES):
                    digest.update(piece)
                    file.write(piece)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
            finally:
                process.stdout.close()
                status = process.wait()
            if status:
                told.seek(0)
                lines = told.read(1 << 16).decode(errors="replace").strip().splitlines()
                reason = lines[-1] if lines else "it said nothing"
                raise DataError(f"{self.name(path)!r} ended with status {status}: {reason}; mend the command")
        return digest.hexdigest()

    def _make_room(self, size: int) -> None:
        kept = sorted((path.stat().st_mtime_ns, path) for path in self.folder.glob("*.tar"))
        total = size + sum(path.stat().st_size for _, path in kept)
        for _, path in kept:
            if total <= self.max_bytes:
                break
            total -= path.stat().st_size
            path.unlink()  # whoever reads it has it open


def _held(path: Path) -> BinaryIO | None:
    """A file that is locked while this process, or a worker that it forked, lives; None if others hold it."""
    import fcntl

    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _remove_debris(room: Path) -> None:
    """Removes the folders of processes that were killed."""
    for owner in room.glob(f"{FOLDER_PREFIX}*/{OWNER_NAME}"):
        with contextlib.suppress(OSError):
            status = owner.lstat()
            own = stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid()
            if not own or time.time() - status.st_mtime < YOUNG_SECONDS:
                continue
            if (file := _held(owner)) is not None:
                with file:
                    shutil.rmtree(owner.parent, ignore_errors=True)


def _remove(folder: Path, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)
