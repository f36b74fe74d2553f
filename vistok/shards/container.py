"""What a shard container does, apart from how: a new container is one file that keeps this contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from vistok.errors import ShardError
from vistok.shards.commit import HashedFile
from vistok.spec import TokenizerSpec

if TYPE_CHECKING:
    from vistok.shards.arrow_schema import RunColumns

DEFAULT = "arrow"
Shape = tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]


class _Absent:
    """Stands in a column for a field that a sample does not have, which is not the same as null."""

    def __repr__(self) -> str:
        return "ABSENT"

    def __reduce__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()


@dataclass(frozen=True)
class Sample:
    """One image's tokens.

    Args:
        number: Position of its key in the plan.
        arrays: By stream name: indices (N, S), unsigned; or latents (N, D), float32 or float16, where moments are wanted
            (N, 2 D), means then standard deviations.
        meta: JSON data: ``key``, ``size`` (H, W) in pixels, ``grid`` by stream, and what the dataset said (label, caption).
    """

    number: int
    arrays: Mapping[str, NDArray[Any]]
    meta: Mapping[str, Any]


@dataclass(frozen=True)
class Block:
    """Some samples of a shard, by column.

    Args:
        arrays: By stream name, one array a sample; an array of all of them (B, N, S) where they have one shape.
        meta: By field, one value a sample; ABSENT where a sample does not have it.
    """

    arrays: Mapping[str, Sequence[NDArray[Any]] | NDArray[Any]]
    meta: Mapping[str, list[Any]]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Block:
        """Samples by column."""
        arrays = {name: [sample.arrays[name] for sample in samples] for name in samples[0].arrays}
        names = dict.fromkeys(name for sample in samples for name in sample.meta)
        return cls(arrays, {name: [sample.meta.get(name, ABSENT) for sample in samples] for name in names})


@dataclass(frozen=True)
class Origin:
    """What a shard's file says of where it comes from.

    Args:
        fingerprint: Hash of the run's fingerprint.
        spec: Of the tokenizer.
        latents: Type that continuous streams are stored in: ``float32``, ``float16`` or ``bfloat16``.
        columns: Those of all Arrow shards of the run; None: each shard has what its samples need.
    """

    fingerprint: str
    spec: TokenizerSpec
    latents: str = "float32"
    columns: RunColumns | None = None


class OpenShard(Protocol):
    """A shard whose table of members is known; it keeps no file open. Any damage raises ShardError, and nothing else.

    ``fingerprint`` is the hash of the run that made it, as the file itself says; empty where the format has no place for it.
    """

    fingerprint: str

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Sample numbers that it holds, ascending."""
        ...

    def read(self, position: int) -> Sample:
        """The sample at a position in [0, len(numbers))."""
        ...

    def take(self, positions: NDArray[np.int64]) -> Block:
        """The samples at some positions, at least one, in that order."""
        ...

    def shapes(self) -> list[Shape]:
        """Size (H, W) and the grid of each stream, of each sample."""
        ...


class Container(Protocol):
    """A file format for shards. The same samples always give the same bytes."""

    name: str
    suffix: str

    def write(self, file: HashedFile, samples: Iterable[Sample], origin: Origin) -> int:
        """Writes samples in the order given; returns how many."""
        ...

    def open(self, path: Path) -> OpenShard:
        """Opens a shard and reads its table of members.

        Raises:
            ShardError: the file is missing or damaged.
        """
        ...


def container(name: str) -> Container:
    """The container of that name.

    Raises:
        ShardError: there is none.
    """
    from vistok.shards.arrow_container import ArrowContainer
    from vistok.shards.tar_container import TarContainer

    known: dict[str, Container] = {
        box.name: box for box in (ArrowContainer(), ArrowContainer(packed=True), TarContainer())
    }
    if name not in known:
        raise ShardError(f"there is no shard container {name!r}; there is {', '.join(known)}")
    return known[name]
