"""The search with bfloat16 products, on processors that have them: scores that cannot win are ruled out, the rest computed in float32.

It finds what the float32 search finds: every code whose rounded score lies within the error bound of the lowest one
is scored again in float32, and of those the lowest index with the lowest score is taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vistok_kernels.vq.prepared import Frame, into

# below this many channels the product is not what takes the time
_FEWEST_CHANNELS = 64
_FEWEST_CODES, _MOST_CODES = 256, 2**15
# scores of a block, 4 MB: they are read twice more
_SCORES = 2**21
_GROUP = 64
# more groups or codes to score again than this many a row, and the float32 product is cheaper
_MOST_GROUPS, _MOST_NEAR = 4, 8
# bfloat16 keeps 8 bits: a rounded number is off by at most 2^-9 of itself
_ROUNDING = 2.0**-9
# below this products may be flushed to zero
_TINY = 1e-30


def worth_halving(table: Tensor) -> bool:
    """Whether the processor multiplies bfloat16 faster than float32, and the product of this table is the cost."""
    return (
        table.device.type == "cpu"
        and table.shape[1] > _FEWEST_CHANNELS
        and _FEWEST_CODES <= len(table) <= _MOST_CODES
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and _multiplies_halves()
    )


def num_rows_of(table: Tensor) -> int:
    """How many latents make a block."""
    return max(32, min(256, _SCORES // len(table)))


def _multiplies_halves() -> bool:
    asked = (
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return any(ask is not None and ask() for ask in asked)


class HalvedTable:
    """A table of negated codes with half norms (K', D + 1) in bfloat16, each half norm as the sum of two: (K', D + 2).

    Attributes:
        codes: The rounded table.
        length: The greatest length of a rounded code.
        lost: The greatest length of what rounding took from a code.
        half_norm: The greatest half norm.
    """

    def __init__(self, table: Tensor) -> None:
        dim = table.shape[1] - 1
        norms = table[:, dim]
        coarse = norms.bfloat16()
        # of codes that are not there the half norm is infinite, and the rest of it 0
        rest = torch.where(norms.isfinite(), norms - coarse.float(), 0.0)
        self.codes = torch.empty(len(table), dim + 2, dtype=torch.bfloat16)
        self.codes[:, :dim] = table[:, :dim]
        self.codes[:, dim], self.codes[:, dim + 1] = coarse, rest
        there = norms.isfinite()
        self.half_norm = float(torch.where(there, norms, 0.0).amax())
        self.length = float(_lengths(self.codes[:, :dim].float()).amax())
        self.lost = float(_lengths(table[:, :dim] - self.codes[:, :dim]).amax())


class HalvedSearch:
    """The search of one thread, with the memory that it uses over and over: (R, D) -> (R,).

    Args:
        table: Negated codes with their half norms as last channel (K', D + 1), float32; K' a multiple of 64.
        halved: The same in bfloat16.
        where: The frame.
        num_rows: R, at most; see ``num_rows_of``.
    """

    def __init__(self, table: Tensor, halved: HalvedTable, where: Frame, num_rows: int) -> None:
        self.table, self.halved, self.where = table, halved, where
        self.block = table.new_ones(num_rows, table.shape[1])
        self.rounded = table.new_ones(num_rows, table.shape[1] + 1, dtype=torch.bfloat16)
        self.scores = self.rounded.new_empty(num_rows, len(table))
        self.lowest = self.rounded.new_empty(num_rows, len(table) // _GROUP)

    def __call__(self, latents: Tensor) -> Tensor | None:
        """Indices of at most ``num_rows`` latents; None where so many codes are near that float32 is cheaper."""
        count = len(latents)
        block, rounded = self.block[:count], self.rounded[:count]
        scores, lowest = self.scores[:count], self.lowest[:count]
        into(block[:, :-1], latents, self.where)
        rounded[:, :-2] = block[:, :-1]
        torch.mm(rounded, self.halved.codes.T, out=scores)
        torch.amin(scores.view(count, -1, _GROUP), dim=2, out=lowest)
        limit = self._limit(block[:, :-1], rounded[:, :-2], lowest)
        if not bool(limit.isfinite().all()):
            # latents so far away that lengths overflow
            return None
        groups = (lowest <= limit).view(-1).nonzero().squeeze(1)
        if len(groups) > _MOST_GROUPS * count:
            return None
        rows = groups // lowest.shape[1]
        members = scores.view(-1, _GROUP).index_select(0, groups)
        near = (members <= limit.index_select(0, rows)).view(-1).nonzero().squeeze(1)
        if len(near) > _MOST_NEAR * count:
            return None
        # as positions in the block's scores, row by row
        near = groups.index_select(0, near // _GROUP) * _GROUP + near % _GROUP
        rows, codes = near // len(self.table), near % len(self.table)
        nearest = codes.new_empty(count).index_copy_(0, rows, codes)
        contested = (torch.bincount(rows, minlength=count) > 1).index_select(0, rows)
        rows, codes = rows[contested], codes[contested]
        exact = (block.index_select(0, rows) * self.table.index_select(0, codes)).sum(dim=1)
        return _lowest(nearest, rows, codes, exact)

    def _limit(self, latents: Tensor, rounded: Tensor, lowest: Tensor) -> Tensor:
        """The rounded score above which no code of a row can be the nearest: (R, 1)."""
        of = self.halved
        length, lost = _lengths(latents), _lengths(latents - rounded)
        # <z, c> - <z', c'> = <z - z', c'> + <z, c - c'>; and sums of D products in float32 err as well
        error = lost * of.length + length * of.lost + length * of.length * (latents.shape[1] * 2.0**-23)
        error += 2.0**-16 * of.half_norm + _TINY
        best = lowest.amin(dim=1, keepdim=True).float()
        # rounding keeps the order of scores, so a limit rounded up serves those that were rounded down
        limit = best + best.abs() * (2.02 * _ROUNDING) + 2 * error
        return limit + limit.abs() * (2.02 * _ROUNDING)


def _lengths(vectors: Tensor) -> Tensor:
    """(R, D) -> (R, 1)."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return lengths


def _lowest(nearest: Tensor, rows: Tensor, codes: Tensor, scores: Tensor) -> Tensor:
    """Puts the lowest code among those with the lowest score of a row into ``nearest`` (R,); all others are (P,)."""
    best = scores.new_full(nearest.shape, torch.inf).scatter_reduce_(0, rows, scores, "amin")
    hit = scores == best[rows]
    return nearest.scatter_reduce_(0, rows[hit], codes[hit], "amin", include_self=False)
