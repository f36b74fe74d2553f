"""What a caller hands to a layout, checked before anything is done with it; each error is one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vistok.errors import LayoutError
from vistok.spec import TokenizerSpec

if TYPE_CHECKING:
    from vistok.layouts.streams import Grid


def check_spec(spec: Any) -> None:
    """Refuses what is no spec, a tokenizer say."""
    if not isinstance(spec, TokenizerSpec):
        raise LayoutError(
            f"a layout takes a tokenizer's spec, it is given {_told(spec)}: give tokenizer.spec"
        )


def check_vocabulary(vocabulary: Any) -> None:
    """Refuses what is neither ids by name nor a size."""
    if vocabulary is None or _is_integer(vocabulary, 0):
        return
    if not isinstance(vocabulary, Mapping):
        raise LayoutError(
            f"vocabulary is {_told(vocabulary)}: give a text tokenizer's get_vocab(), or its size, at least 0"
        )
    wrong = next((name for name, id_ in vocabulary.items() if not _is_integer(id_, 0)), None)
    if wrong is not None:
        raise LayoutError(f"vocabulary has {wrong!r} at {vocabulary[wrong]!r}: ids are integers from 0 on")


def check_text(text: Any) -> None:
    """Refuses what cannot be called."""
    if text is not None and not callable(text):
        raise LayoutError(
            f"text is {_told(text)}: give a function from text to ids, a text tokenizer's encode"
        )


def ids_of_text(text: Callable[[str], Sequence[int]], header: str, size: int, system: str) -> list[int]:
    """The ids of a header.

    Raises:
        LayoutError: the function gives something else than ids below the vocabulary's size.
    """
    found: Any = text(header)
    found = found.tolist() if isinstance(found, Tensor) else found
    if not isinstance(found, (list, tuple)) or not all(_is_integer(id_, 0) and id_ < size for id_ in found):
        raise LayoutError(
            f"{system} writes {header!r} as text, for which text= gives {_told(found)}: it must be a list of ids below {size}"
        )
    return [int(id_) for id_ in found]


def checked_sizes(sizes: Any) -> tuple[tuple[int, int], ...]:
    """(H, W) of images, each side at least 1."""
    if not isinstance(sizes, (list, tuple)):
        raise LayoutError(f"sizes is {_told(sizes)}: give a list of (H, W) in pixels")
    for size in sizes:
        if not _are_sides(size) or len(size) != 2:
            raise LayoutError(f"sizes holds {size!r}: give (H, W) in pixels, each at least 1")
    return tuple((int(height), int(width)) for height, width in sizes)


def checked_grids(grid: Any, number: int, system: str) -> tuple[Grid, ...]:
    """The grid of each of so many streams, each side at least 1."""
    grids = [grid] if _are_sides(grid) else grid
    if not isinstance(grids, (list, tuple)) or not all(_are_sides(one) for one in grids):
        raise LayoutError(
            f"grid is {_told(grid)}: give (h, w) or (N,) of integers from 1 on, one for each stream of {system}"
        )
    if len(grids) != number:
        raise LayoutError(f"{system} has {number} streams, {len(grids)} grids are said: give one for each")
    return tuple(tuple(int(side) for side in one) for one in grids)


def checked_ids(given: Any, num_stacked: int, system: str) -> Tensor:
    """Ids (B, L), or (B, L, S) where S are stacked, as int64 on the CPU."""
    shape = f"(B, L, {num_stacked})" if num_stacked else "(B, L)"
    ids = _integers(given, f"ids of {system} are integers {shape}")
    if ids.ndim != 2 + bool(num_stacked) or (num_stacked and ids.shape[2] != num_stacked):
        raise LayoutError(
            f"ids of {system} are integers {shape}, these are {_told(ids)}: give one row an image"
        )
    return ids.detach().to("cpu", torch.int64)


def checked_labels(given: Any, batch: int | None, num_labels: int, system: str) -> Tensor:
    """Class labels (B,) as int64 on the CPU; of any number where no batch is said."""
    expected = f"labels of {system} are integers ({'B' if batch is None else batch},), one an image"
    labels = _integers(given, expected)
    if labels.ndim != 1 or (batch is not None and len(labels) != batch):
        raise LayoutError(f"{expected}, these are {_told(labels)}")
    wrong = ((labels < 0) | (labels >= num_labels)).nonzero()
    if len(wrong):
        image = int(wrong[0])
        raise LayoutError(
            f"image {image} has label {int(labels[image])}, outside [0, {num_labels}) of {system}"
        )
    return labels.detach().to("cpu", torch.int64)


def check_values(values: Any, shape: Sequence[int | None], latents: bool, what: str) -> None:
    """Refuses what is not a tensor of that shape, None for any length: of floats for latents, of integers for indices."""
    if latents and not (isinstance(values, Tensor) and values.is_floating_point()):
        raise LayoutError(f"{what} takes floating latents, it is given {_told(values)}")
    if not latents:
        _integers(values, f"{what} takes integer indices")
    if values.ndim != len(shape) or any(
        wanted not in (None, side) for wanted, side in zip(shape, values.shape, strict=True)
    ):
        letters = ("B", "N", "D" if latents else "S")
        told = ", ".join(
            letter if wanted is None else str(wanted) for letter, wanted in zip(letters, shape, strict=False)
        )
        raise LayoutError(f"{what} is ({told}), it is given as {tuple(values.shape)}")


def _integers(values: Any, expected: str) -> Tensor:
    if (
        not isinstance(values, Tensor)
        or values.is_floating_point()
        or values.is_complex()
        or values.dtype == torch.bool
    ):
        raise LayoutError(f"{expected}, these are {_told(values)}: give a tensor of integers")
    return values


def _is_integer(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _are_sides(values: Any) -> bool:
    return (
        isinstance(values, (list, tuple)) and len(values) > 0 and all(_is_integer(side, 1) for side in values)
    )


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    told = " ".join(repr(value).split())
    return told if len(told) <= 60 else f"a {type(value).__name__}"
