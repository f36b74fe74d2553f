"""Images made from arithmetic alone: gradients, shapes and textures, the same bits on every machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vistok.data.base import ImageDataset
from vistok.errors import DataError
from vistok.spec import ImagePolicy

Plane: TypeAlias = NDArray[np.float64]
Draw: TypeAlias = Callable[..., Plane]

_HALF = 1 << 32


class Procedural(ImageDataset):
    """Seeded pictures: a gradient, a texture, and up to six shapes on top; keys are ``procedural_000000`` and on.

    Image i is a function of (seed, i, size). Only sums, products and comparisons are used, on raw generator bits, so that
    no library version or processor changes a pixel.

    Args:
        num: How many images.
        size: Side in pixels, or (H, W).
        seed: Not negative.
        policy: How images become tensors.
        multiple_of: What both sides are divisible by.

    Raises:
        DataError: a count or size below 1, or a negative seed.
    """

    def __init__(
        self,
        num: int,
        size: int | tuple[int, int] = 64,
        seed: int = 0,
        policy: ImagePolicy | None = None,
        multiple_of: int = 1,
    ) -> None:
        super().__init__(policy, multiple_of)
        self.height, self.width = (size, size) if isinstance(size, int) else size
        if num < 1 or self.height < 1 or self.width < 1 or seed < 0:
            raise DataError(
                f"num={num}, size={size}, seed={seed}: num and size are at least 1, the seed is not negative"
            )
        self.seed = seed
        self._keys = [f"procedural_{index:06d}" for index in range(num)]

    def keys(self) -> list[str]:
        """``procedural_000000`` and on."""
        return self._keys

    def source(self, index: int) -> Image.Image:
        """The picture, RGB."""
        bits = np.random.PCG64(np.random.SeedSequence([self.seed % _HALF, self.seed // _HALF, index]))

        def draw(*shape: int) -> Plane:
            """Uniform in [0, 1)."""
            count = int(np.prod(shape, dtype=np.int64))
            uniform: Plane = (
                (bits.random_raw(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53
            ).reshape(shape)
            return uniform

        return Image.fromarray(_paint(draw, self.height, self.width))


def _paint(draw: Draw, height: int, width: int) -> NDArray[np.uint8]:
    """uint8 (H, W, 3)."""
    side = max(height, width)
    y, x = np.meshgrid((np.arange(height) + 0.5) / side, (np.arange(width) + 0.5) / side, indexing="ij")
    picture = _gradient(draw, y, x)
    picture = _blend(picture, _gradient(draw, y, x), _texture(draw, y, x) * float(draw(1)[0]))
    for _ in range(1 + int(draw(1)[0] * 6)):
        cover = _shape(draw, y, x, side)
        filling = _gradient(draw, y, x)
        if draw(1)[0] < 0.5:
            filling = _blend(filling, _gradient(draw, y, x), _texture(draw, y, x))
        picture = _blend(picture, filling, cover)
    result: NDArray[np.uint8] = np.clip(np.floor(picture * 255 + 0.5), 0, 255).astype(np.uint8)
    return result


def _blend(below: Plane, above: Plane, cover: Plane) -> Plane:
    """``cover`` (H, W) in [0, 1] of ``above`` over ``below``, both (H, W, 3)."""
    blended: Plane = below + (above - below) * cover[..., None]
    return blended


def _gradient(draw: Draw, y: Plane, x: Plane) -> Plane:
    """(H, W, 3): from one colour to another in any direction."""
    first, second, direction = draw(3), draw(3), draw(2) * 2 - 1
    slope = y * direction[0] + x * direction[1]
    low = min(direction[0], 0.0) + min(direction[1], 0.0)
    span = abs(direction[0]) + abs(direction[1]) + 1e-6
    colours: Plane = first + (second - first) * ((slope - low) / span)[..., None]
    return colours


def _texture(draw: Draw, y: Plane, x: Plane) -> Plane:
    """(H, W) in [0, 1]: stripes, a checkerboard, or smooth noise."""
    kind, frequency, direction = draw(1)[0], 2 + draw(1)[0] * 14, draw(2) * 2 - 1
    if kind < 0.33:
        return _wave((y * direction[0] + x * direction[1]) * frequency)
    if kind < 0.66:
        return np.asarray((np.floor(y * frequency) + np.floor(x * frequency)) % 2)
    cells = int(frequency) + 2
    values = draw(cells, cells)
    row, column = y * (cells - 1), x * (cells - 1)
    top, left = (
        np.minimum(np.floor(row), cells - 2).astype(np.int64),
        np.minimum(np.floor(column), cells - 2).astype(np.int64),
    )
    down, right = _smooth(row - top), _smooth(column - left)
    upper = values[top, left] * (1 - right) + values[top, left + 1] * right
    lower = values[top + 1, left] * (1 - right) + values[top + 1, left + 1] * right
    return np.asarray(upper * (1 - down) + lower * down)


def _shape(draw: Draw, y: Plane, x: Plane, side: int) -> Plane:
    """(H, W) in [0, 1]: how much of a pixel an ellipse, a slanted box or a ring covers; edges are one pixel soft."""
    kind, (cy, cx), (ry, rx) = draw(1)[0], draw(2), 0.05 + draw(2) * 0.3
    slant = draw(1)[0] - 0.5
    v, u = (y - cy) / ry, (x - cx + (y - cy) * slant) / rx
    outside = np.maximum(np.abs(v), np.abs(u)) if 0.4 <= kind < 0.7 else v * v + u * u
    edge = 2.0 / (side * min(ry, rx))
    cover: Plane = np.clip((1 - outside) / edge + 0.5, 0, 1)
    if kind >= 0.7:
        cover = cover * (1 - np.clip((0.4 - outside) / edge + 0.5, 0, 1))
    return cover


def _wave(phase: Plane) -> Plane:
    """A triangle wave in [0, 1], made round: a sine whose bits do not depend on the maths library."""
    return _smooth(np.abs((phase % 1) * 2 - 1))


def _smooth(t: Plane) -> Plane:
    return t * t * (3 - 2 * t)
