"""Real photographs that need no download: for the demo, for tests, or one's own few."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from vistok.data.folder import ImageFiles, list_images
from vistok.errors import DataError
from vistok.spec import ImagePolicy
from vistok.tokenizer.images import SUFFIXES

HELD_OUT_EVERY = 5

_SKIMAGE = {
    "train": ("astronaut.png", "chelsea.png", "hubble_deep_field.jpg", "rocket.jpg"),
    "held_out": ("coffee.png",),
}
_SKLEARN = {"train": ("flower.jpg",), "held_out": ("china.jpg",)}
_SPLITS = ("train", "held_out", "all")


class Photos(ImageFiles):
    """Photographs that installed packages carry, split by whole images; keys are names such as ``astronaut``.

    From scikit-image's wheel astronaut, chelsea, hubble_deep_field and rocket are for training, coffee is held out;
    where scikit-learn is installed, flower joins the first and china the second. No network is used. With ``folder``,
    the images below it are split instead: every fifth by sorted path is held out, and at least one.

    Args:
        split: ``train``, ``held_out`` or ``all``.
        folder: Own photographs in place of the packaged ones; keys are then relative paths.
        policy: How images become tensors.
        multiple_of: What both sides are divisible by.

    Raises:
        DataError: scikit-image is not installed, an unknown split, or a folder that cannot be split.
    """

    def __init__(
        self,
        split: str = "train",
        folder: str | Path | None = None,
        policy: ImagePolicy | None = None,
        multiple_of: int = 1,
    ) -> None:
        if split not in _SPLITS:
            raise DataError(f"photos have no split {split!r}: choose one of {', '.join(_SPLITS)}")
        found = _packaged(split) if folder is None else _own(Path(folder), split)
        super().__init__([path for _, path in found], [key for key, _ in found], policy, multiple_of)


def _packaged(split: str) -> list[tuple[str, Path]]:
    splits = ("train", "held_out") if split == "all" else (split,)
    skimage, sklearn = _package_folder("skimage"), _package_folder("sklearn")
    if skimage is None:
        raise DataError(
            "the photos come with scikit-image, which is not installed: pip install 'vistok[demo]', or give a folder"
        )
    found = [skimage / "data" / name for s in splits for name in _SKIMAGE[s]]
    if sklearn is not None:
        found += [sklearn / "datasets" / "images" / name for s in splits for name in _SKLEARN[s]]
    missing = next((path for path in found if not path.is_file()), None)
    if missing is not None:
        raise DataError(
            f"{str(missing)!r} is missing from its package: reinstall with pip install -U 'vistok[demo]', or give a folder"
        )
    return sorted((path.stem, path) for path in found)


def _package_folder(name: str) -> Path | None:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _own(folder: Path, split: str) -> list[tuple[str, Path]]:
    keys = list_images(folder)
    if not keys:
        raise DataError(
            f"{str(folder)!r} has no images: vistok looks for {' '.join(SUFFIXES)} in it and below"
        )
    if len(keys) == 1:
        raise DataError(
            f"{str(folder)!r} has one file only that is named like an image, {keys[0]!r}: "
            "a split by whole images needs at least 2, add some"
        )
    held_out = keys[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY] or keys[-1:]
    chosen = {"held_out": held_out, "train": [key for key in keys if key not in set(held_out)], "all": keys}[
        split
    ]
    return [(key, folder / key) for key in chosen]
