"""The numbers that follow from the levels of a finite scalar quantizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch

MAX_CODES = 2**62

# Keeps tanh's limits inside the last half step, so that rounding never leaves the levels.
_EPS = 1e-3


class Channels(NamedTuple):
    """Constants of every channel, each (D,): ``bounded = tanh(latent + shift) * reach - offset``.

    ``half_widths`` is ``level // 2``: what maps a level's number to and from [-1, 1]. ``bases`` is what a step of the
    channel adds to the index; the first channel is the least significant.
    """

    shift: torch.Tensor
    reach: torch.Tensor
    offset: torch.Tensor
    half_widths: torch.Tensor
    bases: torch.Tensor


def check_levels(levels: Sequence[int]) -> None:
    """Refuses levels that cannot be a codebook.

    Raises:
        ValueError: no level, one below 2, or a product above 2^62.
    """
    if len(levels) == 0 or min(levels) < 2:
        raise ValueError(
            f"levels are {tuple(levels)}, there must be at least one and each must be at least 2"
        )
    if math.prod(levels) > MAX_CODES:
        raise ValueError(
            f"levels {tuple(levels)} make {math.prod(levels)} codes, at most 2^62 have an exact index; use fewer"
        )


def channels(levels: Sequence[int], dtype: torch.dtype, device: torch.device) -> Channels:
    """Computes the constants in Python's float64, the integers exactly."""
    reach = [(level - 1) * (1 - _EPS) / 2 for level in levels]
    offset = [0.0 if level % 2 else 0.5 for level in levels]
    shift = [math.tan(away / half) for away, half in zip(offset, reach, strict=True)]
    bases = [math.prod(levels[:position]) for position in range(len(levels))]
    return Channels(
        *(torch.tensor(values, dtype=dtype, device=device) for values in (shift, reach, offset)),
        *(
            torch.tensor(v, dtype=torch.int64, device=device)
            for v in ([level // 2 for level in levels], bases)
        ),
    )


@lru_cache(maxsize=256)
def cached_channels(
    levels: tuple[int, ...], dtype: torch.dtype, device: torch.device, repeats: int
) -> Channels:
    """``channels``, each repeated to (R D,) and made once: for the insides of ops, which never see a tracer's tensors."""
    # what inference mode makes could not take part in training
    with torch.inference_mode(False):
        return Channels(*(value.repeat(repeats) for value in channels(levels, dtype, device)))
