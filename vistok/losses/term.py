"""What a loss term is to the training: something that measures a batch and what the tokenizer made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from vistok.errors import DataError, RecipeError
from vistok.tokenizer import Reconstruction

Batch = Mapping[str, Any]


class Term(nn.Module):
    """One loss of a recipe, unweighted; ``LossTerms`` weighs it and knows its name.

    Its parameters, if it has any (a text tower, a logit scale), are trained with the tokenizer's.
    """

    compares_pixels: ClassVar[bool] = False
    """Whether it compares pixels; the sum of those terms is what adaptive weights refer to."""

    needs: ClassVar[tuple[str, ...]] = ()
    """Fields of the batch that it reads beside ``image``."""

    adaptive: bool = False
    """Whether its weight is multiplied by ``adaptive_weight`` at the encoder's last layer."""

    def measure(self, batch: Batch, output: Reconstruction) -> Tensor:
        """The loss of a batch as a float32 scalar.

        Args:
            batch: ``image`` (B, 3, H, W) in [-1, 1], ``key``, and whatever else the dataset has, as lists.
            output: What the tokenizer made of it.

        Raises:
            RecipeError: the tokenizer does not give what is measured.
            DataError: the batch does not hold what is needed.
        """
        raise NotImplementedError


def pixels_of(output: Reconstruction, name: str) -> Tensor:
    """The reconstruction (B, 3, H, W).

    Raises:
        RecipeError: the tokenizer does not decode to pixels.
    """
    if output.image is None:
        raise RecipeError(
            f"{name!r} has a weight but the tokenizer does not decode to pixels: drop the weight"
        )
    return output.image


def features_of(output: Reconstruction, name: str) -> Tensor:
    """What the feature head predicts, (B, h, w, D) or (B, N, D).

    Raises:
        RecipeError: the tokenizer has no feature head.
    """
    if output.features is None:
        raise RecipeError(
            f"{name!r} has a weight but the tokenizer has no feature head: add feature_head, or drop the weight"
        )
    return output.features


def field_of(batch: Batch, name: str) -> list[Any]:
    """A field of every image of the batch.

    Raises:
        DataError: an image that has none.
    """
    keys = batch.get("key") or [f"#{number}" for number in range(len(batch["image"]))]
    values = batch.get(name)
    missing = (
        keys[0] if values is None else next((k for k, v in zip(keys, values, strict=True) if v is None), None)
    )
    if missing is not None or values is None:
        remedy = (
            "put it into a .txt file of the same name beside the image"
            if name == "caption"
            else "choose other data"
        )
        raise DataError(f"image {missing!r} has no {name}, which a loss of this recipe reads: {remedy}")
    return list(values)


def has_fields(batch: Batch, names: tuple[str, ...]) -> bool:
    """Whether all images of the batch have these fields."""
    return all(batch.get(name) is not None and None not in batch[name] for name in names)
