"""Several views of each image: mirrored, ten crops, or random crops; each is a sample of its own."""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from PIL import Image

from vistok.data.base import ImageDataset
from vistok.data.buckets import Buckets
from vistok.errors import DataError
from vistok.spec import ImagePolicy, TokenizerSpec
from vistok.tokenizer.preprocess import fit_image, to_tensor

V = TypeVar("V", bound="Views")

TEN_CROP_SCALE = 1.1
RANDOM_SHARE = (0.5, 1.0)
MAX_RANDOM = 100


class Views(ImageDataset):
    """Each image of a dataset as several samples, one a view, with key ``KEY#VIEW`` and fields ``source`` and ``view``.

    ``flip``: ``as-is``, and ``flip``, mirrored left to right. ``ten-crop``: the image is fitted to 1.1 times the size that
    it would have; ``crop-00`` to ``crop-04`` are its corners (top left, top right, bottom left, bottom right) and centre,
    ``crop-05`` to ``crop-09`` the same of the mirrored image. Without a set size nothing is enlarged: the crops are the
    image's own pixels, its sides over 1.1. ``random-K``: K crops, each a share drawn from [0.5, 1] of the sides of the
    largest region in the shape of the result, at a place drawn too; they depend on seed, key and view alone. Names of
    views sort in this order.

    Source: ten-crop as in Sun et al., LlamaGen (2024), arXiv:2406.06525, and its ``extract_codes_c2i.py``; the images are
    resized by the policy's interpolation.

    Args:
        dataset: Where the images come from.
        views: ``flip``, ``ten-crop``, or ``random-K`` with K in [1, 100].
        seed: Of the random crops, not negative.

    Raises:
        DataError: unknown views, or a negative seed.
    """

    def __init__(self, dataset: ImageDataset, views: str, seed: int = 0) -> None:
        super().__init__(dataset.policy, dataset.multiple_of)
        if seed < 0:
            raise DataError(f"seed {seed} is negative: the seed of random crops is at least 0")
        self.names = view_names(views)
        self.dataset, self.views, self.seed = dataset, views, seed
        self.is_fitted, self.buckets = dataset.is_fitted, dataset.buckets
        keys = dataset.keys()
        self._keys = [f"{key}#{name}" for key in keys for name in self.names]
        self._latest: tuple[int, Image.Image, ImagePolicy] | None = None

    def fitted_to(self: V, spec: TokenizerSpec) -> V:
        """The same views in sizes that a tokenizer takes."""
        return self._over(self.dataset.fitted_to(spec))

    def bucketed(self: V, buckets: Buckets | None) -> V:
        """The same views, each in the size of its image's bucket."""
        return self._over(self.dataset.bucketed(buckets))

    def _over(self: V, dataset: ImageDataset) -> V:
        changed = copy.copy(self)
        changed.dataset, changed.is_fitted, changed.buckets = dataset, dataset.is_fitted, dataset.buckets
        changed.policy, changed.multiple_of = dataset.policy, dataset.multiple_of
        changed._latest = None
        return changed

    def describe(self) -> dict[str, Any]:
        """What the images' dataset says, and the views."""
        seed = {"seed": self.seed} if self.views.startswith("random") else {}
        return {**self.dataset.describe(), "views": self.views, **seed}

    def keys(self) -> list[str]:
        """Key and view, image by image."""
        return self._keys

    def source(self, index: int) -> Image.Image:
        """The view, RGB, in its final size."""
        place, view = divmod(index, len(self.names))
        image, policy = self._prepared(place)
        if self.views == "flip":
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view else image
        if self.views == "ten-crop":
            size = policy.size or _multiples(image.size, 1 / TEN_CROP_SCALE, self.multiple_of)
            return ten_crop(image, view, size)
        name = self._keys[index]
        crop = random_crop(image, _draw(self.seed, name), policy.size, self.multiple_of)
        return fit_image(crop, policy, self.multiple_of, name=name)

    def extras(self, index: int) -> dict[str, Any]:
        """What the image has, its key as ``source``, and the view's name.

        Raises:
            DataError: the image has such a field already.
        """
        place, view = divmod(index, len(self.names))
        fields, key = self.dataset.extras(place), self.dataset.keys()[place]
        taken = next((name for name in ("source", "view") if name in fields), None)
        if taken is not None:
            raise DataError(f"image {key!r} has a field {taken!r}, which its views need: rename it")
        return {**fields, "source": key, "view": self.names[view]}

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = self._checked(index)
        return {"image": to_tensor(self.source(index)), "key": self._keys[index], **self.extras(index)}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_latest": None}

    def _prepared(self, place: int) -> tuple[Image.Image, ImagePolicy]:
        """What all views of an image have in common, and the policy of its size; kept until another is asked for."""
        latest = self._latest
        if latest is None or latest[0] != place:
            image, key = self.dataset.read(place), self.dataset.keys()[place]
            policy = self.policy_for(image)
            if self.views == "flip":
                image = fit_image(image, policy, self.multiple_of, name=key)
            elif policy.size is None:
                image = _at_least(image, self.multiple_of, policy, key)
            elif self.views == "ten-crop":
                height, width = policy.size
                larger = (int(height * TEN_CROP_SCALE), int(width * TEN_CROP_SCALE))
                image = fit_image(image, replace(policy, size=larger), name=key)
            self._latest = latest = (place, image, policy)
        return latest[1], latest[2]


def view_names(views: str) -> list[str]:
    """The names of the views, in order.

    Raises:
        DataError: unknown views.
    """
    if views == "flip":
        return ["as-is", "flip"]
    count = "10" if views == "ten-crop" else views[len("random-") :] if views.startswith("random-") else ""
    if not (count.isascii() and count.isdigit() and len(count) <= 3 and 1 <= int(count) <= MAX_RANDOM):
        raise DataError(
            f"there are no views {views!r}: choose flip, ten-crop, or random-K with K from 1 to {MAX_RANDOM}"
        )
    return [f"crop-{number:02d}" for number in range(int(count))]


def with_views(dataset: ImageDataset, views: str, seed: int = 0) -> ImageDataset:
    """The dataset with the views of that name; ``none`` gives itself.

    Raises:
        DataError: unknown views, or a negative seed.
    """
    return dataset if views == "none" else Views(dataset, views, seed)


def ten_crop(image: Image.Image, view: int, size: tuple[int, int]) -> Image.Image:
    """One of the ten crops of (H, W) ``size``: corners and centre, then those of the mirrored image."""
    if view >= 5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    down, right = image.height - size[0], image.width - size[1]
    corners = [(0, 0), (right, 0), (0, down), (right, down), (round(right / 2), round(down / 2))]
    left, top = corners[view % 5]
    return image.crop((left, top, left + size[1], top + size[0]))


def random_crop(
    image: Image.Image, draw: Callable[[], float], size: tuple[int, int] | None, multiple_of: int
) -> Image.Image:
    """A region of the image, to be fitted.

    Args:
        image: At least ``multiple_of`` high and wide if there is no ``size``.
        draw: Uniform numbers in [0, 1).
        size: The (H, W) that the region will have, which gives its shape; None: the image's shape, in whole multiples.
        multiple_of: Of those.
    """
    share = RANDOM_SHARE[0] + (RANDOM_SHARE[1] - RANDOM_SHARE[0]) * draw()
    if size is None:
        height, width = _multiples(image.size, share, multiple_of)
    else:
        scale = share * min(image.height / size[0], image.width / size[1])
        height, width = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    left, top = int(draw() * (image.width - width + 1)), int(draw() * (image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def _draw(seed: int, name: str) -> Callable[[], float]:
    digest = hashlib.sha256(f"{seed}|{name}".encode("utf-8", "surrogatepass")).digest()
    # random.Random(int).random() is the one generator that Python promises never to change
    return random.Random(int.from_bytes(digest, "big")).random


def _multiples(size: tuple[int, int], share: float, multiple_of: int) -> tuple[int, int]:
    """(H, W) of the largest multiples within a share of a (width, height), at least one multiple."""
    height, width = (max(1, int(side * share) // multiple_of) * multiple_of for side in (size[1], size[0]))
    return height, width


def _at_least(image: Image.Image, multiple_of: int, policy: ImagePolicy, key: str) -> Image.Image:
    """The image, enlarged where a side is too short for crops of one multiple."""
    short = min(image.size)
    least = int(multiple_of * TEN_CROP_SCALE)
    if short >= least:
        return image
    size = (max(least, round(image.height * least / short)), max(least, round(image.width * least / short)))
    fit: Any = "refuse" if policy.fit == "refuse" else "resize"
    return fit_image(image, replace(policy, size=size, fit=fit), name=key)
