"""The frames of the images that there can be: by grid, by known sizes, or guessed from ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from vistok.errors import LayoutError
from vistok.layouts.checks import checked_grids
from vistok.layouts.frame import Frame, build_frame
from vistok.layouts.grammar import Grammar
from vistok.layouts.streams import Grid, StreamOrder
from vistok.layouts.template import Template
from vistok.layouts.vocabulary import Vocabulary


class Frames:
    """Builds each frame once.

    Args:
        template: The sequence.
        vocabulary: The ids.
        orders: Streams by their name in the template.
        text: Ids of a text, for headers.
        sizes: (H, W) in pixels of the images that there can be where no grid is said.
    """

    def __init__(
        self,
        template: Template,
        vocabulary: Vocabulary,
        orders: Mapping[str, StreamOrder],
        text: Callable[[str], Sequence[int]] | None,
        sizes: Sequence[tuple[int, int]],
    ) -> None:
        self._template, self._vocabulary, self._orders = template, vocabulary, orders
        self._text, self._sizes = text, tuple(sizes)
        self._frames: dict[tuple[Grid, ...], Frame] = {}

    def of(self, grids: tuple[Grid, ...]) -> Frame:
        """The frame of a grid for each stream."""
        if grids not in self._frames:
            self._frames[grids] = build_frame(
                self._template, self._vocabulary, self._orders, grids, self._text
            )
        return self._frames[grids]

    def candidates(self, grid: Grid | Sequence[Grid] | None) -> list[Frame]:
        """The frame of the grid that is said, or of every known size; none where none is known."""
        if grid is not None:
            return [self.of(checked_grids(grid, len(self._orders), self._template.system))]
        orders = list(self._orders.values())
        if len(orders) == 1 and orders[0].stream.topology == "ragged":
            return [self.of(((number + 1,),)) for number in range(orders[0].stream.max_tokens)]
        grids = [tuple(order.grid_of(size) for order in orders) for size in self._sizes]
        # a size below one position, or a sequence of no known length, says nothing
        return [self.of(found) for found in grids if all(min(grid) > 0 for grid in found)]

    def known(self, grid: Grid | Sequence[Grid] | None) -> list[Frame]:
        """As ``candidates``, at least one.

        Raises:
            LayoutError: no size is known.
        """
        frames = self.candidates(grid)
        if not frames:
            raise LayoutError(
                f"{self._template.system} needs to know which sizes there can be: say grid=, or sizes= of Layout"
            )
        return frames

    def guesses(self, ids: Tensor, grammar: Grammar) -> list[Frame]:
        """Frames of every grid that has as many tokens as the first image, of a single stream; a square first."""
        if len(self._orders) > 1:
            return []
        (name, order), first = next(iter(self._orders.items())), ids[0]
        if name in self._vocabulary.codes:
            number = grammar.count(name, first) // order.num_groups
        else:
            number = int((first == self._vocabulary.placeholder(order.rule)).sum())
        return [self.of((grid,)) for grid in order.grids_of(number)]
