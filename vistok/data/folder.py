"""Images that lie as files: a list of paths, or a folder with all that is below it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vistok.data.base import ImageDataset
from vistok.data.fields import Fields
from vistok.errors import DataError
from vistok.spec import ImagePolicy
from vistok.tokenizer.images import SUFFIXES

_MIRRORED = re.compile(r"_(mirror|flip|mirrorflip)$")
_TRANSLATION = re.compile(r"^[A-Za-z]{2,3}([_@][A-Za-z]+)*\.utf8=.*$", re.MULTILINE)


class ImageFiles(ImageDataset):
    """Images at given paths.

    Args:
        paths: Files, in the order of the dataset.
        keys: A unique key for each; default: the file names.
        policy: How images become tensors.
        multiple_of: What both sides are divisible by.

    Raises:
        DataError: no paths, or keys that are not unique.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        keys: Sequence[str] | None = None,
        policy: ImagePolicy | None = None,
        multiple_of: int = 1,
    ) -> None:
        super().__init__(policy, multiple_of)
        self._paths = [os.fspath(path) for path in paths]
        self._keys = list(keys) if keys is not None else [Path(path).name for path in paths]
        if not self._paths or len(self._keys) != len(self._paths):
            raise DataError(
                f"there are {len(self._paths)} paths and {len(self._keys)} keys: pass one key a path, at least one"
            )
        if len(set(self._keys)) < len(self._keys):
            twice = Counter(self._keys).most_common(1)[0][0]
            raise DataError(
                f"key {twice!r} occurs twice: pass keys=, or a folder, whose keys are relative paths"
            )

    def keys(self) -> list[str]:
        """The keys, in the order of the paths."""
        return self._keys

    def source(self, index: int) -> Path:
        """The path of an image."""
        return Path(self._paths[index])


class ImageFolder(ImageFiles):
    """All images below a folder, sorted by key; a key is the path relative to the folder, with slashes and suffix.

    Hidden files and folders are left out, links to folders are not followed. Where ``a.txt`` lies beside ``a.jpg`` it is
    the caption. The first sub-folder's name is the class, which is given if it is asked for.

    Args:
        root: The folder.
        labels: Whether items have ``label``, the number of the class among ``classes``, which are sorted by name.
        policy: How images become tensors.
        multiple_of: What both sides are divisible by.
        fields: What else items have: ``label``, as above, and ``class``, its name.

    Raises:
        DataError: a folder that is missing, or has no images; an image outside the class folders; a file name that is
            not UTF-8; a field that folders do not have.
    """

    def __init__(
        self,
        root: str | Path,
        labels: bool = False,
        policy: ImagePolicy | None = None,
        multiple_of: int = 1,
        fields: Fields | None = None,
    ) -> None:
        self.root = Path(root)
        asked = fields or Fields()
        if labels and "label" not in asked.chosen:
            asked = replace(asked, chosen={**asked.chosen, "label": "label"})
        asked.check(("label", "class"), f"{str(root)!r}, a folder of images,")
        keys = list_images(self.root)
        if not keys:
            raise DataError(
                f"{str(root)!r} has no images: vistok looks for {' '.join(SUFFIXES)} in it and its sub-folders"
            )
        super().__init__([self.root / key for key in keys], keys, policy, multiple_of)
        self.fields = asked
        self.classes: list[str] = []
        if asked.chosen:
            loose = next((key for key in keys if "/" not in key), None)
            if loose is not None:
                raise DataError(
                    f"{str(root)!r} has image {loose!r} in no class folder: move it into one, or set labels=False"
                )
            self.classes = sorted({key.split("/", 1)[0] for key in keys})
            self._number = {name: label for label, name in enumerate(self.classes)}

    def extras(self, index: int) -> dict[str, Any]:
        """The class, if it was asked for, and the caption, if there is one.

        Raises:
            DataError: the caption cannot be read.
        """
        found: dict[str, Any] = {}
        if self.classes:
            name = self._keys[index].split("/", 1)[0]
            known = {"label": self._number[name], "class": name}
            found = {field: known[column] for field, column in self.fields.chosen.items()}
        caption = caption_of(self.source(index))
        return found if caption is None else {"caption": caption, **found}


def caption_of(image: Path) -> str | None:
    """The caption beside an image; ``a_mirror.png`` and ``a_flip.png`` of Tux Paint's stamps share that of ``a.png``.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    caption = read_caption(image.with_suffix(".txt"))
    if caption is None and (original := _MIRRORED.sub("", image.stem)) != image.stem:
        caption = read_caption(image.with_name(f"{original}.txt"))
    return caption


def read_caption(path: Path) -> str | None:
    """The text of a file without white space at its ends; None if there is no file.

    Lines such as ``de.utf8=Eine Blume.``, in which Tux Paint's stamps translate the first, are left out.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    try:
        return _TRANSLATION.sub("", path.read_text(encoding="utf-8")).strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise DataError(f"caption {str(path)!r} cannot be read: {reason}; mend it or remove it") from error


def list_images(root: Path) -> list[str]:
    """Relative paths, with slashes, of all images below a folder, sorted.

    Raises:
        DataError: not a folder, not readable, or a name that is not UTF-8.
    """
    if not root.exists():
        raise DataError(f"{str(root)!r} does not exist: check the path")
    if not root.is_dir():
        raise DataError(f"{str(root)!r} is not a folder: give the folder that holds the images")
    found: list[str] = []
    for folder, subfolders, files in os.walk(root, onerror=_refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        inside = Path(folder).relative_to(root)
        images = (name for name in files if name.lower().endswith(SUFFIXES) and not name.startswith("."))
        found.extend((inside / name).as_posix() for name in images)
    for key in found:
        try:
            key.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{str(root)!r} has the file {key!r}, whose name is not UTF-8: rename it"
            ) from error
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename!r} cannot be listed: {error.strerror}") from error
