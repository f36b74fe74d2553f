"""A file that a command writes at its end, in a place that is tried at its start."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from vistok.errors import VistokError


@contextlib.contextmanager
def writing(target: str, option: str) -> Iterator[Callable[[str], None]]:
    """Gives a function that takes the whole text; the file is there when the block ends, and untouched if it raises.

    Args:
        target: A file to make or to replace, or a device or pipe such as ``/dev/stdout``, which is written as it is.
        option: That named it, for messages.

    Raises:
        VistokError: nothing can be written there; told before the block runs wherever that can be known.
    """
    from vistok.shards.commit import HashedFile, replacing

    path = Path(target)
    with contextlib.ExitStack() as stack:
        try:
            if path.is_dir():
                raise IsADirectoryError(None, "it is a directory")
            file: BinaryIO | HashedFile
            if path.exists() and not path.is_file():
                file = stack.enter_context(path.open("wb"))
            else:  # a link stays a link: what it points to is replaced
                file = stack.enter_context(replacing(path.resolve()))
        except OSError as error:
            raise _refused(target, option, error) from error

        def write(text: str) -> None:
            try:
                file.write(text.encode())
            except OSError as error:
                raise _refused(target, option, error) from error

        yield write
        try:
            stack.close()
        except OSError as error:
            raise _refused(target, option, error) from error


def _refused(target: str, option: str, error: OSError) -> VistokError:
    return VistokError(
        f"{option} {target} cannot be written: {error.strerror or error}; name a file in a folder that you can write to"
    )
