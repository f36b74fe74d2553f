"""What a demo directory remembers: the settings it was made with and the stages that are done."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vistok.errors import VistokError
from vistok.report.writing import write_text

FILE_NAME = "state.json"
_FORMAT = 1


@dataclass
class State:
    """A small JSON file, replaced whole at every change.

    Args:
        folder: The demo's directory.
        settings: What must be equal for a later run to go on here.
        stages: Result of each finished stage, by name, as JSON data.
        seconds: Wall time spent so far, over all runs: in each stage, and ``total``.
    """

    folder: Path
    settings: dict[str, Any]
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, settings: dict[str, Any]) -> State:
        """Starts a demo in a new or empty directory, or goes on with the one that is there.

        Raises:
            VistokError: the directory is a file, cannot be written, holds other things, or a demo with other settings.
        """
        path = folder / FILE_NAME
        if folder.exists() and not folder.is_dir():
            raise VistokError(f"{folder} is a file: give another directory with --out")
        if not path.exists():
            strangers = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
            if strangers:
                raise VistokError(
                    f"{folder} holds {strangers[0]!r} and no demo: give a new directory with --out"
                )
            state = cls(folder, settings)
            state.save()
            return state
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            known = cls(folder, data["settings"], data["stages"], data["seconds"])
            readable = data["format"] == _FORMAT and all(
                isinstance(known.__dict__[k], dict) for k in ("settings", "stages", "seconds")
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise VistokError(
                f"{path} is damaged ({type(error).__name__}): delete {folder} or give another --out"
            ) from error
        if not readable:
            raise VistokError(
                f"{path} is of another version of vistok: delete {folder} or give another --out"
            )
        for name in sorted(settings.keys() | known.settings.keys()):
            mine, there = settings.get(name), known.settings.get(name)
            if mine != there:
                raise VistokError(
                    f"{folder} holds a demo with {name}={there}, not {mine}: give another --out, or delete it"
                )
        return known

    def done(self, stage: str) -> bool:
        """Whether a stage has finished, in this run or an earlier one."""
        return stage in self.stages

    def finish(self, stage: str, result: dict[str, Any]) -> None:
        """Marks a stage as done, with what it found."""
        self.stages[stage] = result
        self.save()

    def spend(self, stage: str, seconds: float) -> None:
        """Adds wall time."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def save(self) -> None:
        """Writes the file.

        Raises:
            VistokError: the directory cannot be written.
        """
        data = {"format": _FORMAT, "settings": self.settings, "stages": self.stages, "seconds": self.seconds}
        write_text(self.folder / FILE_NAME, json.dumps(data, indent=1) + "\n")
