"""What a tokenizer's contrastive branch knows without training for it: captions of images, classes of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vistok.errors import DataError, RecipeError
from vistok.evaluation.evaluate import Images, same_size_batches, view_of
from vistok.evaluation.result import Metric
from vistok.tokenizer import Tokenizer

TEMPLATES = ("a photo of a {}.",)


def retrieval(
    tokenizer: Tokenizer, tower: nn.Module, dataset: Images, *, batch_size: int = 16, size: int | None = None
) -> Metric:
    """Recall@1 from images to captions, in [0, 1]: how often an image's own caption is the nearest of all, by cosine.

    Equal captions are one candidate, which is right for all of their images; the note tells what chance would reach.

    Args:
        tokenizer: One whose ``semantic`` features lie in the tower's space.
        tower: A list of B strings to (B, D).
        dataset: Items with ``image``, ``key`` and ``caption``.
        batch_size: Images at once.
        size: Cut the central square of that many pixels; None takes images as the dataset gives them.

    Raises:
        DataError: no images, or one without a caption.
        RecipeError: a tower of another D.
        TokenizerError: no semantic branch.
    """
    dataset = _fitted(dataset, tokenizer)
    vectors, captions = _images(tokenizer, dataset, "caption", batch_size, size)
    candidates = sorted(set(captions))
    number = {caption: place for place, caption in enumerate(candidates)}
    nearest = _nearest(vectors, _texts(tower, candidates, batch_size))
    right = nearest == torch.tensor([number[caption] for caption in captions])
    protocol = f"retrieval_r1/v1:{view_of(dataset, size)}:image-to-text:cosine:captions={len(candidates)}:n={len(captions)}"
    return Metric(float(right.double().mean()), protocol, f"chance {1 / len(candidates):.4g}")


def classification(
    tokenizer: Tokenizer,
    tower: nn.Module,
    dataset: Images,
    classes: Sequence[str],
    *,
    templates: Sequence[str] = TEMPLATES,
    batch_size: int = 16,
    size: int | None = None,
) -> Metric:
    """Accuracy of the nearest class by cosine, in [0, 1], without training for the classes.

    A class is the mean of its unit-length texts, one for each template.

    Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision (2021),
    arXiv:2103.00020, section 3.1.

    Args:
        tokenizer: One whose ``semantic`` features lie in the tower's space.
        tower: A list of B strings to (B, D).
        dataset: Items with ``image``, ``key`` and ``label``: the number of a class, or its name.
        classes: Their names as the texts are to have them, by number.
        templates: Texts with ``{}`` where the name stands.
        batch_size: Images at once.
        size: Cut the central square of that many pixels; None takes images as the dataset gives them.

    Raises:
        DataError: no images, or one without a label or with one that is no class.
        RecipeError: no classes, no templates, or a tower of another D.
        TokenizerError: no semantic branch.
    """
    if not classes or not templates:
        raise RecipeError("zero-shot classification needs at least one class and one template")
    dataset = _fitted(dataset, tokenizer)
    vectors, labels = _images(tokenizer, dataset, "label", batch_size, size)
    number: dict[Any, int] = {name: place for place, name in enumerate(classes)}
    number.update((place, place) for place in range(len(classes)))
    unknown = next((label for label in labels if label not in number), None)
    if unknown is not None:
        raise DataError(
            f"label {unknown!r} is none of the {len(classes)} classes: give its name or its number"
        )
    texts = _texts(tower, [t.replace("{}", name) for name in classes for t in templates], batch_size)
    centres = functional.normalize(texts.view(len(classes), len(templates), -1).mean(1), dim=-1)
    right = _nearest(vectors, centres) == torch.tensor([number[label] for label in labels])
    protocol = (
        f"zero_shot/v1:{view_of(dataset, size)}:top1:cosine:classes={len(classes)}:templates={len(templates)}"
        f":n={len(labels)}"
    )
    return Metric(float(right.double().mean()), protocol, f"chance {1 / len(classes):.4g}")


class _Noting:
    """A dataset that notes one field of the items that it hands on."""

    def __init__(self, dataset: Images, name: str) -> None:
        self.dataset, self.name = dataset, name
        self.seen: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.dataset[index]
        if item.get(self.name) is None:
            raise DataError(
                f"image {item['key']!r} has no {self.name}: zero-shot evaluation needs one for each image"
            )
        self.seen[index] = item[self.name]
        return item


def _images(
    tokenizer: Tokenizer, dataset: Images, name: str, batch_size: int, size: int | None
) -> tuple[Tensor, list[Any]]:
    """Unit vectors (n, D) of all images in float64, and a field of each."""
    noting = _Noting(dataset, name)
    found: dict[int, Tensor] = {}
    for images, positions, _ in same_size_batches(noting, batch_size, size):
        pooled = tokenizer.semantic(images.to(tokenizer.device)).mean(1)
        found.update(zip(positions, functional.normalize(pooled.cpu().double(), dim=-1), strict=True))
    if not found:
        raise DataError("the dataset holds no images: there is nothing to evaluate")
    order = sorted(found)
    return torch.stack([found[position] for position in order]), [noting.seen[position] for position in order]


@torch.no_grad()
def _texts(tower: nn.Module, texts: Sequence[str], batch_size: int) -> Tensor:
    """Unit vectors (n, D) of all texts in float64; the tower in evaluation mode."""
    was_training = tower.training
    tower.eval()
    parts = [tower(list(part)).cpu().double() for part in _parts(texts, batch_size)]
    tower.train(was_training)
    return functional.normalize(torch.cat(parts), dim=-1)


def _parts(texts: Sequence[str], length: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(texts), length):
        yield texts[start : start + length]


def _nearest(vectors: Tensor, candidates: Tensor) -> Tensor:
    if vectors.shape[-1] != candidates.shape[-1]:
        raise RecipeError(
            f"the tokenizer's semantic features have {vectors.shape[-1]} channels and the text tower's "
            f"{candidates.shape[-1]}: give the tower that it was trained with"
        )
    return (vectors @ candidates.T).argmax(-1)


def _fitted(dataset: Images, tokenizer: Tokenizer) -> Images:
    fit = getattr(dataset, "fitted_to", None)
    return dataset if fit is None else fit(tokenizer.spec)  # type: ignore[no-any-return]
