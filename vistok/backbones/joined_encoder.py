"""Several encoders as one: their latents joined before quantization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.backbones.base import Encoder

Joining = Literal["concat", "sum"]


class JoinedEncoder(Encoder):
    """Encodes an image several times and concatenates or sums the latents, so that one token speaks of all of them.

    All lie on the grid of the first; those on another one are resized to it (bicubic).

    Source: TokenFlow, Qu et al. (2024), arXiv:2412.03069, section 3.1 (concatenated, under one index); MUSE-VL, Xie et
    al. (2024), arXiv:2411.17762, section 3.1 (summed).

    Args:
        encoders: At least two, each on a grid.
        projections: One a encoder, to the channels that are joined; None leaves all as they are.
        joining: ``concat`` puts channels side by side, in order; ``sum`` adds them.

    Shapes:
        image (B, 3, H, W) -> latent (B, h, w, dim), (h, w) that of the first encoder; H and W multiples of all factors.

    Raises:
        ValueError: fewer than two encoders, one that gives no grid, or channels that cannot be summed.
    """

    def __init__(
        self,
        encoders: Sequence[Encoder],
        projections: Sequence[nn.Module] | None = None,
        joining: Joining = "concat",
    ) -> None:
        super().__init__()
        if len(encoders) < 2:
            raise ValueError(f"there must be at least two encoders to join, there are {len(encoders)}")
        if joining not in get_args(Joining):
            raise ValueError(f"joining is one of {', '.join(get_args(Joining))}, not {joining!r}")
        chosen = list(projections) if projections is not None else [nn.Identity() for _ in encoders]
        if len(chosen) != len(encoders):
            raise ValueError(f"{len(chosen)} projections were given for {len(encoders)} encoders")
        for encoder in encoders:
            if encoder.topology != "2d" or encoder.loss_names:
                raise ValueError(f"{type(encoder).__name__} gives no plain grid: it cannot be joined")
        dims = [
            int(getattr(part, "dim_out", encoder.dim)) for part, encoder in zip(chosen, encoders, strict=True)
        ]
        if joining == "sum" and len(set(dims)) > 1:
            raise ValueError(
                f"latents of {', '.join(map(str, dims))} channels cannot be summed: project them"
            )
        self.encoders, self.projections = nn.ModuleList(encoders), nn.ModuleList(chosen)
        self.joining = joining
        self.dim = sum(dims) if joining == "concat" else dims[0]
        self.factor = encoders[0].factor

    @property
    def multiple_of(self) -> int:
        """The least common multiple of the encoders'."""
        return math.lcm(*(encoder.multiple_of for encoder in self._encoders()))

    def forward(self, image: Tensor) -> Tensor:
        """Encodes."""
        found = [
            project(encoder(image)) for encoder, project in zip(self.encoders, self.projections, strict=True)
        ]
        grid = (found[0].shape[1], found[0].shape[2])
        found = [resized(latent, grid) for latent in found]
        return torch.cat(found, dim=-1) if self.joining == "concat" else torch.stack(found).sum(dim=0)

    def _encoders(self) -> list[Encoder]:
        return [encoder for encoder in self.encoders if isinstance(encoder, Encoder)]


def resized(vectors: Tensor, grid: tuple[int, int]) -> Tensor:
    """Vectors on another grid, bicubic: (B, h, w, C) -> (B, *grid, C)."""
    if (vectors.shape[1], vectors.shape[2]) == grid:
        return vectors
    planes = vectors.movedim(-1, 1).float()  # bicubic has no bfloat16 kernel everywhere
    return F.interpolate(planes, size=grid, mode="bicubic").movedim(1, -1).to(vectors.dtype)
