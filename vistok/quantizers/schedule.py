"""Which grids a multi-scale quantizer goes through, for each shape of the finest one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from vistok.spec import proportional_scales

Grid = tuple[int, int]


class ScaleSchedule:
    """A list of grids for every finest grid, from a base schedule of squares and a table of exceptions.

    The base schedule ends at a finest grid of p_K x p_K. A finest grid (h, w) that no table row ends with gets scales of
    round(h p_k / p_K) x round(w p_k / p_K), at least 1 x 1: the base schedule itself for a square, and its proportions
    for every other aspect ratio and size.

    Args:
        scales: Side lengths p_k, growing.
        table: Whole schedules of (h, w), each ending with the finest grid that it serves.

    Raises:
        ValueError: an empty schedule, or one whose sides shrink.
    """

    def __init__(self, scales: Sequence[int], table: Sequence[Sequence[Sequence[int]]] = ()) -> None:
        self.scales = tuple(int(side) for side in scales)
        if not self.scales or self.scales[0] < 1 or list(self.scales) != sorted(self.scales):
            raise ValueError(f"scales must be sides of at least 1 that never shrink, they are {list(scales)}")
        self.table: dict[Grid, tuple[Grid, ...]] = {}
        for row in table:
            grids = tuple((int(height), int(width)) for height, width in row)
            if not grids or any(a[0] > b[0] or a[1] > b[1] for a, b in pairwise(grids)):
                raise ValueError(f"a schedule must hold grids that never shrink, one is {list(grids)}")
            if min(grids[0]) < 1:
                raise ValueError(f"a grid must be at least 1 x 1, a schedule starts at {grids[0]}")
            self.table[grids[-1]] = grids

    def __call__(self, grid: Grid) -> tuple[Grid, ...]:
        """The grids for a finest grid (h, w), coarsest first, the last being (h, w) itself."""
        if grid in self.table:
            return self.table[grid]
        return proportional_scales(self.scales, grid)

    def num_tokens(self, grid: Grid) -> int:
        """N, positions of all scales together."""
        return sum(height * width for height, width in self(grid))

    def square(self, num_tokens: int) -> Grid:
        """The square finest grid whose scales have so many positions.

        Raises:
            ValueError: there is none.
        """
        side = 1
        while self.num_tokens((side, side)) < num_tokens:
            side += 1
        if self.num_tokens((side, side)) != num_tokens:
            raise ValueError(f"{num_tokens} tokens are not the scales of a square: say grid=(h, w)")
        return side, side
