"""Sizes by aspect ratio: every image goes to the size nearest its own shape, all within one area."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from fractions import Fraction

from vistok.errors import DataError
from vistok.spec import ImagePolicy, JSONData

MAX_BUCKETS = 4096


@dataclass(frozen=True)
class Buckets(JSONData):
    """Sizes (H, W) of at most ``area`` pixels, both sides divisible, none longer than ``max_ratio`` times the other.

    They are those to which neither a step of height nor one of width nor both could be added. An image takes the
    size whose ratio is nearest its own by their quotient, of equals the larger, then the squarer; it is resized to
    cover it, by the policy's interpolation, and its centre is cut.

    Source: NovelAI's aspect ratio bucketing (2022), as in Podell et al., SDXL (2023), arXiv:2307.01952, section 2.3;
    here the ratios are compared exactly, by quotient, so that portrait and landscape are treated alike.

    Args:
        area: Most pixels of an image.
        multiple: What both sides are divisible by; 0: what the tokenizer demands.
        max_ratio: Longest side over shortest, at least 1.

    Raises:
        DataError: values out of range.
    """

    area: int
    multiple: int = 0
    max_ratio: float = 4.0

    def __post_init__(self) -> None:
        if self.area < 1 or self.multiple < 0 or not 1 <= self.max_ratio < math.inf:
            raise DataError(
                f"buckets of area {self.area}, multiple {self.multiple} and ratio {self.max_ratio:g} are none: "
                "area is at least 1, multiple at least 0, ratio at least 1"
            )

    @classmethod
    def parse(cls, text: str) -> Buckets:
        """Reads ``AREA[,MULTIPLE[,MAX_RATIO]]``, with the area as ``65536`` or ``256x256``.

        Raises:
            DataError: it is not of this form.
        """
        area, *more = text.split(",")
        try:
            if len(more) > 2:
                raise ValueError
            sides = [int(side) for side in area.lower().split("x")]
            if len(sides) > 2 or min(sides) < 1:
                raise ValueError
            multiple = int(more[0]) if more else 0
            return cls(math.prod(sides), multiple, float(more[1]) if len(more) > 1 else cls.max_ratio)
        except ValueError as error:
            raise DataError(
                f"{text!r} does not say which buckets: write AREA, AREA,MULTIPLE or AREA,MULTIPLE,MAX_RATIO, such as 256x256,32,2"
            ) from error

    def sizes(self, multiple_of: int) -> tuple[tuple[int, int], ...]:
        """All (H, W), narrow before wide.

        Args:
            multiple_of: What the tokenizer demands.

        Raises:
            DataError: ``multiple`` is none of ``multiple_of``, or the area holds no size, or too many.
        """
        return _sizes(self, multiple_of)

    def size_for(self, width: int, height: int, multiple_of: int) -> tuple[int, int]:
        """The (H, W) of an image of that size."""

        def rank(size: tuple[int, int]) -> tuple[Fraction, int, int]:
            a, b = width * size[0], height * size[1]
            return Fraction(max(a, b), min(a, b)), -size[0] * size[1], max(size)

        return min(self.sizes(multiple_of), key=rank)

    def policy_for(self, policy: ImagePolicy, width: int, height: int, multiple_of: int) -> ImagePolicy:
        """A policy that brings an image of that size to its bucket: covered, and the centre cut."""
        return replace(policy, size=self.size_for(width, height, multiple_of), fit="crop")


@functools.lru_cache(maxsize=64)
def _sizes(buckets: Buckets, multiple_of: int) -> tuple[tuple[int, int], ...]:
    m = buckets.multiple or multiple_of
    if m % multiple_of:
        raise DataError(
            f"buckets of multiples of {m} do not suit this tokenizer: it demands multiples of {multiple_of}"
        )
    limit = Fraction(buckets.max_ratio)
    most = math.isqrt(int(buckets.area * limit)) // m * m
    if most // m > MAX_BUCKETS:
        raise DataError(
            f"an area of {buckets.area} in steps of {m} makes more than {MAX_BUCKETS} buckets: choose a larger multiple"
        )

    def allowed(height: int, width: int) -> bool:
        within = height * width <= buckets.area
        return within and max(height, width) <= limit * min(height, width)

    found: set[tuple[int, int]] = set()
    for side in range(m, most + 1, m):
        other = min(buckets.area // side, int(limit * side)) // m * m
        larger = ((side + m, other), (side, other + m), (side + m, other + m))
        if other and allowed(side, other) and not any(allowed(*size) for size in larger):
            found |= {(side, other), (other, side)}
    if not found:
        raise DataError(
            f"an area of {buckets.area} holds no size of {m} x {m} pixels: choose a larger area, or a smaller multiple"
        )
    return tuple(sorted(found, key=lambda size: (Fraction(size[1], size[0]), size)))
