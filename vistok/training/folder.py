"""The folder of a run: that it can be written to, and that nothing is left in it by a run that never began."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

from vistok.errors import RecipeError


class RunFolder:
    """A run's folder, made when the run begins.

    Args:
        path: Where.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made: Path | None = None  # the uppermost folder that had to be made

    def claim(self) -> None:
        """Makes the folder and tries to write into it; sets metrics of an earlier run aside.

        Raises:
            RecipeError: it cannot be written.
        """
        missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._made = missing[-1] if missing else None
            with tempfile.TemporaryFile(dir=self.path):
                pass
            keep_old_metrics(self.path)
        except OSError as error:
            # what mkdir finds in the way need not be the last part of the path
            reason = (
                "a file is in the way" if isinstance(error, FileExistsError) else error.strerror or str(error)
            )
            raise RecipeError(
                f"the run cannot be written to {self.path}: {reason}; set trainer.default_root_dir to a folder that "
                "can be written"
            ) from error

    def release(self) -> None:
        """Removes the folder again, if it was made by ``claim``: for a run that failed before its first step."""
        if self._made is None:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):  # somebody else has put something into a folder above it
            for folder in self.path.parents:
                if not folder.is_relative_to(self._made):
                    break
                folder.rmdir()
        self._made = None


def keep_old_metrics(folder: Path) -> None:
    """Renames ``metrics.csv`` of an earlier run in the same folder, which CSVLogger would delete."""
    current = folder / "metrics.csv"
    if current.is_file():
        number = 1
        while (folder / f"metrics.{number}.csv").exists():
            number += 1
        current.rename(folder / f"metrics.{number}.csv")
