"""The PyTorch path of attention over a codebook, in memory O(N + K): tiles of scores, computed anew where needed.

The score of latent n and code k is ``<query_n, code_k> * gain_k + bias_k``, which covers every metric. With the
logsumexp known a tile of probabilities is a matrix product and an exponential; the backward pass recomputes both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_ROWS = 256
_CODES = 2048
_GROUP = 128


class Scores(NamedTuple):
    """What the scores are made of; a gain or bias of None is 1 or 0.

    Shapes:
        queries (N, D), codebook (K, D), gain (K,), bias (K,), all of one dtype.
    """

    queries: Tensor
    codebook: Tensor
    gain: Tensor | None
    bias: Tensor | None


class Upstream(NamedTuple):
    """How the loss depends on the probabilities p: ``dscore = p * (<value, code> + row + log p * logarithm + column)``.

    Shapes:
        row (N,); value (N, D), logarithm (N,), column (K,), where the loss depends so.
    """

    row: Tensor
    value: Tensor | None
    logarithm: Tensor | None
    column: Tensor | None


class Gradients(NamedTuple):
    """Of queries (N, D), codebook (K, D), gain (K,) and bias (K,); empty where there is none or none is wanted."""

    queries: Tensor
    codebook: Tensor
    gain: Tensor
    bias: Tensor


def _starts(length: int, step: int) -> Iterator[slice]:
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def _tile(of: Scores, rows: slice, codes: slice, out: Tensor) -> Tensor:
    """Scores of a block of latents and codes, (R, C), in the memory of ``out``."""
    tile = out[: (rows.stop - rows.start) * (codes.stop - codes.start)].view(rows.stop - rows.start, -1)
    torch.mm(of.queries[rows], of.codebook[codes].T, out=tile)
    if of.gain is not None:
        tile.mul_(of.gain[codes])
    return tile if of.bias is None else tile.add_(of.bias[codes])


def _memory(of: Scores) -> Tensor:
    return of.queries.new_empty(min(_ROWS, len(of.queries)) * min(_CODES, len(of.codebook)))


def attention(of: Scores, with_values: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Online softmax: values (N, D), or (0, D) where not wanted, logsumexp (N,), indices (N,).

    Floor: 4 D (2 N + K) + 12 N bytes, 4 N K D flops with values and 2 N K D without, N K exponentials.
    """
    num_latents, dim = of.queries.shape
    values = of.queries.new_zeros(num_latents if with_values else 0, dim)
    highest = of.queries.new_full((num_latents,), -torch.inf)
    total = of.queries.new_zeros(num_latents)
    indices = torch.zeros(num_latents, dtype=torch.int64, device=of.queries.device)
    memory = _memory(of)
    for rows in _starts(num_latents, _ROWS):
        for codes in _starts(len(of.codebook), _CODES):
            tile = _tile(of, rows, codes, memory)
            best, found = _best(tile)
            # strictly better only, so that of equal scores the lowest index stays
            indices[rows] = torch.where(best > highest[rows], found + codes.start, indices[rows])
            best = torch.maximum(best, highest[rows])
            shrink = torch.exp(highest[rows] - best)
            highest[rows] = best
            tile.sub_(best[:, None]).exp_()
            total[rows] = total[rows] * shrink + tile.sum(dim=1)
            if with_values:
                values[rows] = torch.addmm(values[rows] * shrink[:, None], tile, of.codebook[codes])
    if with_values:
        values /= total[:, None]
    return values, highest + total.log(), indices


def _best(tile: Tensor) -> tuple[Tensor, Tensor]:
    """The highest score of each row and its first position: (R, C) -> (R,), (R,).

    ``amax`` is vectorised where a maximum with its position is not: so the position is sought in the best group alone.
    """
    if tile.shape[1] % _GROUP:
        return tile.max(dim=1)
    groups = tile.view(len(tile), -1, _GROUP)
    best, group = groups.amax(dim=2).max(dim=1)
    within = groups[torch.arange(len(tile), device=tile.device), group].argmax(dim=1)
    return best, group * _GROUP + within


def statistics(of: Scores, logsumexp: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy of each latent's distribution, (N,), and the mean distribution, (K,).

    Floor: 4 D (N + K) + 8 N + 4 K bytes, 2 N K D flops, N K exponentials.
    """
    entropies, mean = torch.zeros_like(logsumexp), of.queries.new_zeros(len(of.codebook))
    memory, spare = _memory(of), _memory(of)
    for codes in _starts(len(of.codebook), _CODES):
        for rows in _starts(len(of.queries), _ROWS):
            logarithms = _tile(of, rows, codes, memory).sub_(logsumexp[rows, None])
            tile = torch.exp(logarithms, out=spare[: logarithms.numel()].view_as(logarithms))
            mean[codes] += tile.sum(dim=0)
            entropies[rows] -= logarithms.mul_(tile).sum(dim=1)
    return entropies, mean.div_(max(len(of.queries), 1))


def expectations(of: Scores, logsumexp: Tensor, weights: Tensor) -> Tensor:
    """The mean of the codes' weights (K,) under each latent's distribution, (N,).

    Floor: 4 D (N + K) + 8 N + 4 K bytes, 2 N K D flops, N K exponentials.
    """
    means = torch.zeros_like(logsumexp)
    memory = _memory(of)
    for rows in _starts(len(of.queries), _ROWS):
        for codes in _starts(len(of.codebook), _CODES):
            tile = _tile(of, rows, codes, memory).sub_(logsumexp[rows, None]).exp_()
            means[rows].addmv_(tile, weights[codes])
    return means


def backward(of: Scores, logsumexp: Tensor, upstream: Upstream, for_codebook: bool, soft: bool) -> Gradients:
    """Gradients from the probabilities, which are computed anew; ``soft`` adds the codes' own, as parts of the values.

    Floor: 4 D (3 N + 2 K) + 8 N + 8 K bytes; N K exponentials; 2 N K D flops for each of the scores, the queries and the
    codebook, and for the values two more.
    """
    result = empty_gradients(of, for_codebook)
    for gradient in result:
        gradient.zero_()
    memory, spare, third = _memory(of), _memory(of), _memory(of)
    for codes in _starts(len(of.codebook), _CODES):
        table = of.codebook[codes]
        for rows in _starts(len(of.queries), _ROWS):
            logarithms = _tile(of, rows, codes, memory).sub_(logsumexp[rows, None])
            tile = torch.exp(logarithms, out=spare[: logarithms.numel()].view_as(logarithms))
            if for_codebook and soft and upstream.value is not None:
                result.codebook[codes].addmm_(tile.T, upstream.value[rows])
            slope = _slope(upstream, rows, codes, logarithms, table, third).mul_(tile)
            if for_codebook and of.bias is not None:
                result.bias[codes] += slope.sum(dim=0)
            if for_codebook and of.gain is not None:
                # the products again, of which the logarithms have left nothing
                product = torch.mm(of.queries[rows], table.T, out=tile)
                result.gain[codes] += product.mul_(slope).sum(dim=0)
            if of.gain is not None:
                slope.mul_(of.gain[codes])
            result.queries[rows].addmm_(slope, table)
            if for_codebook:
                result.codebook[codes].addmm_(slope.T, of.queries[rows])
    return result


def empty_gradients(of: Scores, for_codebook: bool) -> Gradients:
    """Memory for the gradients, unwritten; of no size for those that there are not."""

    def like(part: Tensor | None) -> Tensor:
        if part is None or not for_codebook:
            return of.queries.new_empty(0)
        return torch.empty_like(part, memory_format=torch.contiguous_format)

    queries = torch.empty_like(of.queries, memory_format=torch.contiguous_format)
    return Gradients(queries, like(of.codebook), like(of.gain), like(of.bias))


def _slope(
    upstream: Upstream, rows: slice, codes: slice, logarithms: Tensor, table: Tensor, memory: Tensor
) -> Tensor:
    """The bracket of ``Upstream`` for a tile, (R, C); consumes the logarithms."""
    if upstream.logarithm is None:
        slope = logarithms.zero_()
    else:
        slope = logarithms.mul_(upstream.logarithm[rows, None])
    if upstream.value is not None:
        product = memory[: slope.numel()].view_as(slope)
        slope = slope.add_(torch.mm(upstream.value[rows], table.T, out=product))
    slope += upstream.row[rows, None]
    return slope if upstream.column is None else slope.add_(upstream.column[codes])
