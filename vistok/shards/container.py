"""What a shard container does, apart from how: a new container is one file that keeps this contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vistok.shards.commit import HashedFile


@dataclass(frozen=True)
class Sample:
    """One image's tokens.

    Args:
        number: Position of its key in the plan.
        arrays: By stream name: indices (N, S), unsigned; or latents (N, D), float32.
        meta: JSON data: ``key``, ``size`` (H, W) in pixels, ``grid`` by stream, and what the dataset said (label, caption).
    """

    number: int
    arrays: Mapping[str, NDArray[Any]]
    meta: Mapping[str, Any]


class OpenShard(Protocol):
    """A shard whose table of members is known; it keeps no file open. Any damage raises ShardError, and nothing else."""

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Sample numbers that it holds, ascending."""
        ...

    def read(self, position: int) -> Sample:
        """The sample at a position in [0, len(numbers))."""
        ...


class Container(Protocol):
    """A file format for shards. The same samples always give the same bytes."""

    name: str
    suffix: str

    def write(self, file: HashedFile, samples: Iterable[Sample]) -> int:
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
    from vistok.errors import ShardError
    from vistok.shards.tar_container import TarContainer

    known: dict[str, Container] = {"tar": TarContainer()}
    if name not in known:
        raise ShardError(f"there is no shard container {name!r}; there is {', '.join(sorted(known))}")
    return known[name]
