"""What an export format does, apart from how: a new one is one file with one class that keeps this contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from vistok.shards.exports.source import Source


@dataclass(frozen=True)
class ExportFormat(ABC):
    """A format of some training code, with the settings that its caller chose as fields.

    Class attributes:
        name: What ``--to`` calls it.
        kind: Which shards it takes: of ``discrete`` tokens, of ``continuous`` latents, or ``any``.
        packages: What must be installed: import name to the name that ``pip`` knows.
        many_streams: Whether it holds several token streams.
    """

    name: ClassVar[str]
    kind: ClassVar[Literal["discrete", "continuous", "any"]]
    packages: ClassVar[Mapping[str, str]] = {}
    many_streams: ClassVar[bool] = False

    def check(self, source: Source) -> None:
        """Looks at what can be known before anything is written.

        Raises:
            ShardError: these shards cannot be written with these settings.
        """
        return None

    @abstractmethod
    def write(self, source: Source, folder: Path) -> tuple[str, ...]:
        """Writes all samples into an empty folder; the same samples give the same bytes.

        Nobody sees the folder before it is whole: plain files under their final names will do.

        Returns:
            What the caller should know about this export; mostly nothing.

        Raises:
            ShardError: a sample that the format cannot hold.
        """
