"""A file that a command writes at its end, in a place that is tried at its start."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from vistok.errors import VistokError

STDOUT = "-"
_STANDARD = {"/dev/stdout": 1, "/dev/stderr": 2}


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """``--json``, which prints, and ``--json FILE``, which writes beside what is printed."""
    parser.add_argument(
        "--json",
        nargs="?",
        const=STDOUT,
        metavar="FILE",
        help=f"print {what} as JSON and nothing else; or write it to FILE, beside what is printed",
    )


@contextlib.contextmanager
def writing(target: str, option: str) -> Iterator[Callable[[str], None]]:
    """Gives a function that takes the whole text; the file is there when the block ends, and untouched if it raises.

    Args:
        target: A file to make or to replace, or a device or pipe, which is written as it is. So are ``/dev/stdout`` and
            ``/dev/fd/N``, whatever they lead to: a log that they are redirected into keeps what it has.
            ``-`` is where ``print`` prints to.
        option: That named it, for messages.

    Raises:
        VistokError: nothing can be written there; told before the block runs wherever that can be known.
    """
    from vistok.shards.commit import HashedFile, replacing

    if target == STDOUT:
        yield lambda text: print(text.rstrip("\n"))
        return
    path = Path(target)
    with contextlib.ExitStack() as stack:
        try:
            if path.is_dir():
                raise IsADirectoryError(None, "it is a directory")
            file: BinaryIO | HashedFile
            if (number := _descriptor(target)) is not None:
                file = stack.enter_context(os.fdopen(os.dup(number), "wb"))
            elif path.exists() and not path.is_file():
                file = stack.enter_context(path.open("wb"))
            else:  # a link stays a link: what it points to is replaced
                file = stack.enter_context(replacing(path.resolve()))
        except OSError as error:
            raise _refused(target, option, error) from error

        def write(text: str) -> None:
            try:
                sys.stdout.flush()  # what was printed before comes before, in one file too
                file.write(text.encode())
            except OSError as error:
                raise _refused(target, option, error) from error

        yield write
        try:
            stack.close()
        except OSError as error:
            raise _refused(target, option, error) from error


def _descriptor(target: str) -> int | None:
    """The number of an open file that a path stands for."""
    if target in _STANDARD:
        return _STANDARD[target]
    match = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d{1,9})", target)
    return int(match.group(1)) if match else None


def _refused(target: str, option: str, error: OSError) -> VistokError:
    return VistokError(
        f"{option} {target} cannot be written: {error.strerror or error}; name a file in a folder that you can write to"
    )
