"""Where the members of a tar lie, with proof that the tar is whole."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path
from typing import BinaryIO, NamedTuple

from vistok.errors import DataError

_BLOCK = 512
# as webdataset names samples: the key ends at the first dot after the last slash, names that begin with a dot have none
_KEY_AND_FIELD = re.compile(r"((?:.*/|)[^./][^./]*)[.]([^/]*)", re.DOTALL)
_METADATA = re.compile(r"__[^/]*__($|/)")


class TarMember(NamedTuple):
    """Where the bytes of a file lie in its tar."""

    offset: int
    size: int


class TarSample(NamedTuple):
    """Members that share a key.

    Args:
        shard: The tar.
        key: The shared part of their names.
        fields: Members by what follows the key, in lower case.
        adjacent: Whether nothing else lies between them.
    """

    shard: Path
    key: str
    fields: dict[str, TarMember]
    adjacent: bool


def index_tar(path: Path, name: str | None = None) -> list[TarSample]:
    """Reads the headers of an uncompressed tar and groups its regular members by key, in order of first appearance.

    Links, devices and folders are left out, as are members without a dot in their name and webdataset's ``__meta__``.

    Args:
        path: The tar.
        name: What error messages call it; default: its path.

    Raises:
        DataError: missing, compressed, damaged or truncated; a member that occurs twice.
    """
    name = repr(name or str(path))
    try:
        with path.open("rb") as stream:
            return _group(path, name, _members(name, stream))
    except FileNotFoundError as error:
        raise DataError(f"shard {name} does not exist: check the path, or the range in braces") from error
    except IsADirectoryError as error:
        raise DataError(f"shard {name} is a folder: give the tars in it") from error
    except PermissionError as error:
        raise DataError(f"shard {name} cannot be read: {error.strerror}") from error


def _members(shard: str, stream: BinaryIO) -> list[tuple[str, TarMember]]:
    found = []
    try:
        archive = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115 - the stream is closed by the caller
        while (member := archive.next()) is not None:
            if member.isreg() and not member.issparse():
                found.append((member.name, TarMember(member.offset_data, member.size)))
            archive.members.clear()  # type: ignore[attr-defined]  # else a header of each member stays in memory
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        kind = "compressed" if _compressed(stream) else "damaged or truncated"
        remedy = "decompress it" if kind == "compressed" else "fetch it again"
        raise DataError(f"shard {shard} is {kind} ({' '.join(str(error).split())}): {remedy}") from error
    # tarfile takes a cut between members, or a damaged header, for the end; a whole tar ends in blocks of zeros
    stream.seek(archive.offset)
    if stream.read(_BLOCK) != bytes(_BLOCK):
        raise DataError(f"shard {shard} is damaged or truncated at byte {archive.offset}: fetch it again")
    return found


def _compressed(stream: BinaryIO) -> bool:
    stream.seek(0)
    return stream.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))


def _group(path: Path, shard: str, members: list[tuple[str, TarMember]]) -> list[TarSample]:
    fields: dict[str, dict[str, TarMember]] = {}
    torn: set[str] = set()
    previous = None
    for name, member in members:
        match = _KEY_AND_FIELD.fullmatch(name)
        if match is None or _METADATA.match(name):
            continue
        key, field = match[1], match[2].lower()
        if key in fields and key != previous:
            torn.add(key)
        sample = fields.setdefault(key, {})
        if field in sample:
            raise DataError(f"shard {shard} has member {name!r} twice: remove one of them")
        sample[field] = member
        previous = key
    return [TarSample(path, key, sample, key not in torn) for key, sample in fields.items()]
