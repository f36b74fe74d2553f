"""The pieces of photographs that become training and held-out images: many tiles of a few, or many whole images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from vistok.data import ImageDataset, Tiles
from vistok.spec import ImagePolicy

View = tuple[str, float, bool, bool]
# (name, scale, shifted by half a tile, mirrored); held-out photographs have the plain ones only
PLAIN: tuple[View, ...] = (("full", 1.0, False, False), ("half", 0.5, False, False))
MORE: tuple[View, ...] = (
    ("full-mirrored", 1.0, False, True),
    ("half-mirrored", 0.5, False, True),
    ("full-shifted", 1.0, True, False),
    ("three-quarters", 0.75, False, False),
)
WHOLE: tuple[View, ...] = (("whole", 1.0, False, False),)


class PhotographViews(ImageDataset):
    """Each photograph several times: scaled, shifted and mirrored, so that few photographs give many tiles.

    Keys are such as ``astronaut-half``. Items carry ``photo``, ``view`` and ``split``, which shards keep.

    Args:
        train: Photographs that get all views.
        held_out: Photographs that get the plain views.
        tile: Height and width of the tiles in pixels, by half of which one view is shifted.
        views: Of the training and of the held-out photographs.
        policy: How views become tensors.
    """

    def __init__(
        self,
        train: ImageDataset,
        held_out: ImageDataset,
        tile: tuple[int, int],
        views: tuple[Sequence[View], Sequence[View]] = ((*PLAIN, *MORE), PLAIN),
        policy: ImagePolicy | None = None,
    ) -> None:
        super().__init__(policy)
        self.tile = tile
        splits = ((train, "train", views[0]), (held_out, "held_out", views[1]))
        self._views = [
            (dataset, index, split, view)
            for dataset, split, chosen in splits
            for index in range(len(dataset))
            for view in chosen
        ]
        self._keys = [f"{photo_name(d.keys()[i])}-{view[0]}" for d, i, _, view in self._views]

    def keys(self) -> list[str]:
        """Photograph and view."""
        return self._keys

    def source(self, index: int) -> Image.Image:
        """The view."""
        dataset, position, _, (_, scale, shifted, mirrored) = self._views[index]
        image = dataset.read(position)
        if scale != 1:
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            image = image.resize(size, Image.Resampling.LANCZOS)
        height, width = self.tile
        top, left = height // 2, width // 2
        if shifted and image.height >= height + top and image.width >= width + left:
            image = image.crop((left, top, image.width, image.height))
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image

    def extras(self, index: int) -> dict[str, Any]:
        """What shards keep beside the tokens."""
        dataset, position, split, view = self._views[index]
        photo = photo_name(dataset.keys()[position])
        return {**dataset.extras(position), "photo": photo, "split": split, "view": view[0]}


class Chosen(ImageDataset):
    """Some images of a dataset.

    Args:
        dataset: Where they come from.
        indices: Which.
    """

    def __init__(self, dataset: ImageDataset, indices: Sequence[int]) -> None:
        super().__init__(dataset.policy, dataset.multiple_of)
        self.is_fitted = dataset.is_fitted
        self._dataset, self._indices = dataset, list(indices)
        keys = dataset.keys()
        self._keys = [keys[index] for index in self._indices]

    def keys(self) -> list[str]:
        """Theirs."""
        return self._keys

    def source(self, index: int) -> Any:
        """As in the dataset."""
        return self._dataset.source(self._indices[index])

    def read(self, index: int) -> Image.Image:
        """As in the dataset."""
        return self._dataset.read(self._indices[self._checked(index)])

    def extras(self, index: int) -> dict[str, Any]:
        """As in the dataset."""
        return self._dataset.extras(self._indices[index])


def tiles(train: ImageDataset, held_out: ImageDataset, size: tuple[int, int]) -> Tiles:
    """All tiles of all views, (height, width) pixels each.

    Raises:
        DataError: no image is as large as a tile.
    """
    return Tiles(PhotographViews(train, held_out, size), size)


def whole_images(train: ImageDataset, held_out: ImageDataset, size: tuple[int, int]) -> ImageDataset:
    """The centre of each image, resized to (height, width)."""
    return PhotographViews(train, held_out, size, (WHOLE, WHOLE), ImagePolicy(size=size))


def photo_name(key: str) -> str:
    """A photograph's name from its dataset's key: without the ending that copies have."""
    return key.removesuffix(".png")
