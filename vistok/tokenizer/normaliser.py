"""Shift and scale between raw latents and the latents that a generative model sees."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vistok.errors import TokenizerError
from vistok.recorded import Recorded

Values = float | Sequence[float] | Tensor


class LatentNormaliser(Recorded, nn.Module):
    """``latents = (raw - shift) * scale``: one value for all, one per channel, or one per element of one token grid.

    It is the identity until set. With values per element it takes latents of that grid alone, and so images of one size.

    Args:
        dim: D, channels of a latent.

    Shapes:
        raw (B, ..., D) <-> latents (B, ..., D).

    Raises:
        ValueError: a shift or scale that is not finite, a scale that is not positive, or a number of values that is
            neither 1 nor D nor that of the grid.
        TokenizerError: latents of another number of positions than the grid's.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.grid: tuple[int, ...] = ()
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def set(self, shift: Values, scale: Values, grid: Sequence[int] = ()) -> None:
        """Sets both, each from one number, from D, or from one for each element of a grid, position-major (N, D).

        Args:
            shift: Subtracted from raw latents.
            scale: Multiplied afterwards, above 0.
            grid: (h, w) or (N,) that the elements are those of; empty where the values hold for any grid.
        """
        shape = (math.prod(grid), self.dim) if grid else (self.dim,)
        made = []
        for given in (shift, scale):
            values = torch.as_tensor(given, dtype=torch.float32).flatten()
            if values.numel() not in (1, self.dim, math.prod(shape)):
                raise ValueError(
                    f"{values.numel()} values given for {self.dim} channels: give 1 or {self.dim}"
                    + (f" or {math.prod(shape)}" if grid else "")
                )
            single = values.numel() in (1, self.dim)
            made.append(values.expand(shape) if single else values.reshape(shape))
        shift_made, scale_made = made
        if not bool(shift_made.isfinite().all() and scale_made.isfinite().all()):
            raise ValueError("shift and scale hold NaN or Inf in float32: measure latents that are finite")
        if not bool((scale_made > 0).all()):
            raise ValueError("every scale must be above 0 in float32")
        self.grid = tuple(grid)
        self.shift, self.scale = (values.clone().to(self.shift.device) for values in made)

    def forward(self, raw: Tensor) -> Tensor:
        """Raw latents to normalised ones."""
        shift, scale = self._fitted(raw)
        return (raw - shift) * scale

    def check_grid(self, grid: Sequence[int]) -> None:
        """Refuses latents of another grid than that of values per element.

        Raises:
            TokenizerError: naming both.
        """
        if self.grid and tuple(grid) != self.grid:
            raise TokenizerError(
                f"latents are normalised per element of a grid of {' x '.join(map(str, self.grid))}, and these lie on "
                f"{' x '.join(map(str, grid))}: give images of the size that it was measured on, or normalise "
                "per channel"
            )

    def inverse(self, latents: Tensor) -> Tensor:
        """Normalised latents to raw ones."""
        shift, scale = self._fitted(latents)
        return latents / scale + shift

    def rescale(self, deviation: Tensor) -> Tensor:
        """Standard deviations of raw latents to those of normalised ones."""
        return deviation * self._fitted(deviation)[1]

    def _fitted(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale in the shape of latents without the batch."""
        if not self.grid:
            return self.shift, self.scale
        shape = latents.shape[1:]
        if shape.numel() != self.shift.numel() or len(shape) > 2:
            self.check_grid(shape[:-1])
        return self.shift.view(shape), self.scale.view(shape)


def latent_grids(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The grid of each normaliser inside a module, by its name there; empty where values hold for any grid."""
    return {name: part.grid for name, part in module.named_modules() if isinstance(part, LatentNormaliser)}


def take_grids(module: nn.Module, grids: Mapping[str, Sequence[int]]) -> None:
    """Makes room in a module's normalisers for the values of other grids, which are then to be loaded."""
    for name, part in module.named_modules():
        if isinstance(part, LatentNormaliser) and name in grids and part.grid != tuple(grids[name]):
            part.set(0.0, 1.0, grids[name])
