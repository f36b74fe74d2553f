"""One image size written out: what stands at each position of its sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vistok.errors import LayoutError
from vistok.layouts.checks import ids_of_text
from vistok.layouts.streams import Grid, Slots, StreamOrder
from vistok.layouts.template import Choice, Label, Template, Text, Tokens
from vistok.layouts.vocabulary import Vocabulary

FIXED, LABEL = -1, -2
_COLUMNS = ("owner", "fixed", "place", "group", "row", "column", "scale")

Columns = dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Frame:
    """What stands where, each (L,) int64.

    Args:
        owner: Number of the stream whose token stands there; ``FIXED`` for a token of fixed meaning, ``LABEL`` for a label.
        fixed: The id of what is fixed, and the placeholder of a stream whose values go beside.
        place: Which of its stream's arranged values.
        group: Which of a position's values; -1 for all.
        row: In the token grid; -1 for what is not of an image, as ``column`` and ``scale``.
        column: Likewise.
        scale: Likewise.
        grids: Token grid of each stream.
    """

    owner: Tensor
    fixed: Tensor
    place: Tensor
    group: Tensor
    row: Tensor
    column: Tensor
    scale: Tensor
    grids: tuple[Grid, ...]

    @property
    def length(self) -> int:
        """L."""
        return len(self.owner)

    @property
    def first_token(self) -> int:
        """Where the first token of an image stands."""
        return int((self.owner >= 0).nonzero()[0])


def build_frame(
    template: Template,
    vocabulary: Vocabulary,
    orders: Mapping[str, StreamOrder],
    grids: Sequence[Grid],
    text: Callable[[str], Sequence[int]] | None,
) -> Frame:
    """Writes out a sequence.

    Args:
        template: The sequence.
        vocabulary: The ids.
        orders: Streams by their name in the template.
        grids: Their token grids.
        text: Ids of a text, for headers.

    Raises:
        LayoutError: a size that no token of a choice stands for, or a header without ``text``.
    """
    names = list(orders)
    fields = _fields(orders[names[0]], grids[0])
    parts: list[Columns] = []
    for item in template.sequence:
        if isinstance(item, Tokens):
            number = names.index(item.tokens)
            order = orders[item.tokens]
            slots = order.slots(grids[number])
            columns = _of_stream(number, slots, vocabulary, order)
            parts.append(_separated(columns, slots, _separators(item, template, vocabulary, fields)))
        elif isinstance(item, Label):
            parts.append(_fixed([0], LABEL))
        elif isinstance(item, Text):
            parts.append(_fixed(_header(item.text.format(**fields), template, text, vocabulary.size)))
        else:
            parts.append(_fixed([_special(item, template, vocabulary, fields)]))
    joined = {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in _COLUMNS}
    return Frame(**joined, grids=tuple(grids))


def _fields(order: StreamOrder, grid: Grid) -> dict[str, int]:
    height, width = order.grids(grid)[-1]
    factor = order.stream.factor * order.rule.patch
    return {"h": height, "w": width, "H": height * factor, "W": width * factor, "N": order.num_tokens(grid)}


def _special(name: str, template: Template, vocabulary: Vocabulary, fields: Mapping[str, int]) -> int:
    if name in vocabulary.specials:
        return vocabulary.specials[name]
    choice: Choice = template.choices[name]
    ids, value = vocabulary.choices[name], fields[choice.by]
    if value not in ids:
        raise LayoutError(
            f"{template.system} has a token {name!r} for {choice.by} = {', '.join(map(str, ids))}, not for {value}"
        )
    return ids[value]


def _header(
    written: str, template: Template, text: Callable[[str], Sequence[int]] | None, size: int
) -> list[int]:
    if text is None:
        raise LayoutError(
            f"{template.system} writes {written!r} as text: give text=, a function from text to ids (a tokenizer's encode)"
        )
    return ids_of_text(text, written, size, template.system)


def _separators(
    item: Tokens, template: Template, vocabulary: Vocabulary, fields: Mapping[str, int]
) -> dict[str, int]:
    places = ("after_row", "between_rows", "before_scale", "between_scales")
    return {
        place: _special(getattr(item, place), template, vocabulary, fields)
        for place in places
        if getattr(item, place)
    }


def _fixed(ids: Sequence[int], owner: int = FIXED) -> Columns:
    columns = {name: np.full(len(ids), -1, dtype=np.int64) for name in _COLUMNS}
    columns["owner"][:] = owner
    columns["fixed"] = np.array(ids, dtype=np.int64)
    return columns


def _of_stream(number: int, slots: Slots, vocabulary: Vocabulary, order: StreamOrder) -> Columns:
    count = len(slots.row)
    return {
        "owner": np.full(count, number, dtype=np.int64),
        "fixed": np.full(count, vocabulary.placeholder(order.rule), dtype=np.int64),
        "place": np.arange(count),
        "group": slots.group,
        "row": slots.row,
        "column": slots.column,
        "scale": slots.scale,
    }


def _separated(columns: Columns, slots: Slots, separators: Mapping[str, int]) -> Columns:
    """A stream's columns with separators put in before the slots where a row or a scale begins, and at the end."""
    if not separators:
        return columns
    begins_scale = (np.diff(slots.scale) != 0) | (np.diff(slots.run) != 0)
    new_scale = np.flatnonzero(begins_scale) + 1
    new_row = np.flatnonzero(begins_scale | (np.diff(slots.row) != 0)) + 1
    put: list[tuple[int, int, int]] = []
    # in the order in which they stand where several meet
    places_of = {
        "after_row": [*new_row, len(slots.row)],
        "between_rows": [*new_row],
        "between_scales": [*new_scale],
        "before_scale": [0, *new_scale],
    }
    for rank, (name, at) in enumerate(places_of.items()):
        if name in separators:
            put += [(int(place), rank, separators[name]) for place in at]
    put.sort()
    places, ids = [place for place, _, _ in put], [id_ for _, _, id_ in put]
    inserted = _fixed(ids)
    return {name: np.insert(columns[name], places, inserted[name]) for name in _COLUMNS}
