"""What every dataset of vistok is: a list of images, each with a key of its own."""

from __future__ import annotations

import copy
import functools
from abc import abstractmethod
from typing import Any, TypeVar

from PIL import Image
from torch.utils.data import Dataset

from vistok.data.buckets import Buckets
from vistok.data.fields import Fields
from vistok.errors import DataError
from vistok.spec import ImagePolicy, TokenizerSpec
from vistok.tokenizer.images import read_image
from vistok.tokenizer.preprocess import fit_image, to_tensor

D = TypeVar("D", bound="ImageDataset")


class ImageDataset(Dataset[dict[str, Any]]):
    """A map-style dataset of images, safe to pickle into workers.

    An item is ``{"image": float32 (3, H, W) in [-1, 1], "key": str}``, with ``"label": int`` and ``"caption": str``
    where the dataset has them, and the fields that were chosen. Keys are unique and their order never changes. A
    subclass gives ``keys`` and ``source``, and ``extras`` if it has more than images.

    Args:
        policy: How images become tensors; None: their own size, cut to multiples, or as the tokenizer that they are
            encoded with wants them (``fitted_to``).
        multiple_of: What both sides of ``image`` are divisible by.
    """

    fields: Fields = Fields()
    buckets: Buckets | None = None

    def __init__(self, policy: ImagePolicy | None = None, multiple_of: int = 1) -> None:
        self.is_fitted = policy is not None
        self.policy = policy or ImagePolicy()
        self.multiple_of = multiple_of

    def fitted_to(self: D, spec: TokenizerSpec) -> D:
        """The same images in sizes that a tokenizer takes; itself where a policy was given already.

        Raises:
            DataError: buckets that the tokenizer does not take.
        """
        fitted = self
        if not self.is_fitted:
            fitted = copy.copy(self)
            fitted.is_fitted, fitted.policy, fitted.multiple_of = True, spec.image, spec.multiple_of
        if fitted.buckets is not None:
            fitted.buckets.sizes(fitted.multiple_of)
        return fitted

    def bucketed(self: D, buckets: Buckets | None) -> D:
        """The same images, each in the size of its bucket in place of the policy's; None: by the policy again."""
        changed = copy.copy(self)
        changed.buckets = buckets
        return changed

    def describe(self) -> dict[str, Any]:
        """What decides the items apart from the files, as JSON data; a run's fingerprint has it under ``data``."""
        told: dict[str, Any] = self.policy.to_json_data()
        if self.buckets is not None:
            told["buckets"] = self.buckets.to_json_data()
        if fields := self.fields.to_json_data():
            told["fields"] = fields
        return told

    def policy_for(self, image: Image.Image) -> ImagePolicy:
        """The policy that an image is fitted by; with buckets its ``size`` is the image's bucket."""
        if self.buckets is None:
            return self.policy
        return self.buckets.policy_for(self.policy, image.width, image.height, self.multiple_of)

    @abstractmethod
    def keys(self) -> list[str]:
        """The keys of all images, in order."""

    @abstractmethod
    def source(self, index: int) -> Any:
        """What ``read_image`` takes: a path, bytes, a PIL image or an array; ``index`` in [0, len)."""

    def extras(self, index: int) -> dict[str, Any]:
        """What an item carries besides image and key: label, caption."""
        return {}

    def read(self, index: int) -> Image.Image:
        """The image as 8-bit RGB in its own size.

        Raises:
            ImageError: it cannot be read.
            IndexError: there is no such index.
        """
        index = self._checked(index)
        return read_image(self.source(index), self.policy, name=self.keys()[index])

    def pil(self, key: str) -> Image.Image:
        """The image of a key, as ``read`` gives it.

        Raises:
            DataError: no such key.
        """
        if key not in self._index_of:
            raise DataError(
                f"there is no image {key!r} among the {len(self)} of this dataset: see its keys()"
            )
        return self.read(self._index_of[key])

    @functools.cached_property
    def _index_of(self) -> dict[str, int]:
        return {key: index for index, key in enumerate(self.keys())}

    def _checked(self, index: int) -> int:
        length = len(self)
        if not -length <= index < length:
            raise IndexError(f"index {index} is out of range: the dataset has {length} images")
        return index % length

    def __len__(self) -> int:
        return len(self.keys())

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = self._checked(index)
        key = self.keys()[index]
        image = self.read(index)
        fitted = fit_image(image, self.policy_for(image), self.multiple_of, name=key)
        return {"image": to_tensor(fitted), "key": key, **self.extras(index)}
