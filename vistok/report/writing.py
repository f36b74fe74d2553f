"""Files that are whole or not there."""

from __future__ import annotations

from pathlib import Path

from vistok.errors import VistokError


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all; makes its folder.

    Raises:
        VistokError: it cannot be written.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file, whole or not at all; makes its folder.

    Raises:
        VistokError: it cannot be written.
    """
    temp = path.with_name(f".{path.name}.temp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temp.write_bytes(data)
        temp.replace(path)
    except OSError as error:
        raise VistokError(
            f"{path} cannot be written: {error.strerror or error}; give another directory with --out"
        ) from error
