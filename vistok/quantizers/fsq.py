"""Finite scalar quantization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from vistok.quantizers.base import Quantizer, QuantizerOutput, as_latent, check_indices
from vistok.quantizers.index_codec import pack_digits, unpack_digits
from vistok.spec import StreamSpec
from vistok_kernels import fsq, fsq_decode
from vistok_kernels.checks import check_finite

# 2 * sigmoid(1.6 x) - 1 = tanh(0.8 x)
_SLOPES = {"tanh": 1.0, "sigmoid": 0.8}


class FSQ(Quantizer):
    """Rounds each latent channel to a few fixed levels; the codebook is their grid and is never learned.

    Every index in ``[0, prod(levels))`` names a reachable code, so none can die and there is no loss to weigh (above
    1000 levels in one channel, its outermost two are out of reach of the bound). The first level is the least
    significant digit of the index.

    With an even number of levels the grid of the paper has a level at 0 and one more below it than above. With
    ``preserve_symmetry`` levels are spread evenly over [-1, 1] instead, mirrored about 0.

    Source: Mentzer et al., Finite Scalar Quantization (2023), arXiv:2309.15505, section 3; bound ``sigmoid`` from iFSQ
    (2026), arXiv:2601.17124, whose plain rounding of the bounded value is, for odd levels, that of
    ``preserve_symmetry``; symmetric levels from Parker et al., Scaling Transformers for Low-Bitrate High-Quality Speech
    Coding (2024), arXiv:2411.19842, section 3.2.

    Args:
        levels: Steps per channel, each at least 2. ``(8, 5, 5, 5)`` gives K = 1000 codes of dim 4.
        bound: What squeezes a channel into [-1, 1]: ``tanh(x)``, or ``sigmoid`` for 2 * sigmoid(1.6 x) - 1, which spreads
            normal latents almost evenly.
        preserve_symmetry: Levels mirrored about 0.
        convention: Constants of the unsymmetric grid: the ``paper``'s (reach shrunk by 0.1 %, shift by tan), or those of
            most ``public`` code (reach grown by 0.1 %, shift by atanh), for weights trained with it. Levels and indices
            are the same; only latents close to a rounding boundary fall on the other side.

    Shapes:
        latent (B, ..., D), D = len(levels) -> quantized (B, ..., D) in [-1, 1], indices (B, ...) in [0, K).

    Raises:
        ValueError: a level below 2, or prod(levels) above 2^62; latents that are not finite.
    """

    def __init__(
        self,
        levels: Sequence[int],
        bound: Literal["tanh", "sigmoid"] = "tanh",
        preserve_symmetry: bool = False,
        convention: Literal["paper", "public"] = "paper",
    ) -> None:
        super().__init__()
        self.levels = tuple(int(level) for level in levels)
        if not self.levels or min(self.levels) < 2:
            raise ValueError(f"levels must be at least 2 each, they are {list(self.levels)}")
        self.codebook_size: int = math.prod(self.levels)
        if self.codebook_size > 1 << 62:
            raise ValueError(
                f"prod(levels) is {self.codebook_size}, above 2^62: use fewer channels or levels"
            )
        if bound not in _SLOPES:
            raise ValueError(f"bound is {bound!r}, it must be one of {', '.join(_SLOPES)}")
        if convention not in ("paper", "public"):
            raise ValueError(f"convention is {convention!r}, it must be one of paper, public")
        if preserve_symmetry and convention == "public":
            raise ValueError(
                "convention says how unsymmetric levels are bounded: drop it or preserve_symmetry"
            )
        self.dim = len(self.levels)
        self.bound, self.preserve_symmetry, self.convention = bound, preserve_symmetry, convention

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Bounds, rounds and packs."""
        latent = as_latent(latent, self.dim)
        with torch.autocast(latent.device.type, enabled=False):
            if self.bound != "tanh":
                latent = latent * _SLOPES[self.bound]
            if not self.preserve_symmetry and self.convention == "paper":
                return QuantizerOutput(*fsq(latent, self.levels))
            if latent.device.type == "cpu" and not torch.compiler.is_compiling():
                check_finite(latent, "latents", "look for the overflow in the encoder")
            finite = latent.detach().isfinite()
            # a bad channel must not become a level: it stays NaN, and its latent gets index -1
            steps = self._steps(latent.masked_fill(~finite, 0.0))
            sizes = torch.tensor(self.levels, dtype=torch.int64, device=latent.device)
            whole = (steps.detach() + 0.5).floor() if self.preserve_symmetry else steps.detach().round()
            digits = torch.minimum(whole.long().clamp(min=0), sizes - 1)
            indices = pack_digits(digits, self.levels)
            indices = torch.where(finite.all(dim=-1), indices, -torch.ones_like(indices))
            # not as steps + (digits - steps): that sum may round to another number than decode gives
            values = _Rounded.apply(self._values(steps), self._values(digits))  # type: ignore[no-untyped-call]
            return QuantizerOutput(values.masked_fill(~finite, float("nan")), indices)

    def decode(self, indices: Tensor) -> Tensor:
        """Unpacks: (B, ...) -> (B, ..., D) in [-1, 1]."""
        indices = check_indices(indices, self.codebook_size)
        if self.preserve_symmetry:
            return self._values(unpack_digits(indices, self.levels))
        return fsq_decode(indices, self.levels)

    def stream(self) -> StreamSpec:
        """Adds the levels to the stream's description."""
        return StreamSpec("pixel", "pixel", "FSQ", self.codebook_size, self.dim, levels=self.levels)

    @classmethod
    def tiny(cls) -> FSQ:
        """12 codes of dim 2."""
        return cls((4, 3))

    def _steps(self, latent: Tensor) -> Tensor:
        """Bounded latents (B, ..., D) in units of levels, the lowest level being 0."""
        top = self._row([level - 1 for level in self.levels], latent)
        if self.preserve_symmetry:
            return top * (torch.tanh(latent) + 1) / 2
        offset = [0.0 if level % 2 else 0.5 for level in self.levels]
        reach = [(level - 1) * 1.001 / 2 for level in self.levels]
        shift = [math.atanh(away / half) for away, half in zip(offset, reach, strict=True)]
        bounded = torch.tanh(latent + self._row(shift, latent)) * self._row(reach, latent)
        return bounded - self._row(offset, latent) + self._row([level // 2 for level in self.levels], latent)

    def _values(self, steps: Tensor) -> Tensor:
        """Level numbers (B, ..., D), whole or not, to channels in [-1, 1]; whole ones as ``fsq_decode`` gives them."""
        if self.preserve_symmetry:
            top = self._row([level - 1 for level in self.levels], steps)
            return (2 * steps - top).float() / top
        half = self._row([level // 2 for level in self.levels], steps)
        return (steps - half).float() / half

    @staticmethod
    def _row(values: Sequence[float], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=like.device)


class _Rounded(torch.autograd.Function):
    """The rounded value with the gradient of the unrounded one."""

    @staticmethod
    def forward(ctx: object, values: Tensor, rounded: Tensor) -> Tensor:
        return rounded.clone()

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
