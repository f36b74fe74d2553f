"""Launches the Triton kernels of attention over a codebook. Nothing waits for the device.

Where the blocks that programs own are too few for a GPU their streams are split, and PyTorch adds the parts up: the same
bits at every run, at the cost of about ``_PROGRAMS`` blocks of memory.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor

from vistok_kernels.attention.blocked import Gradients, Scores, Upstream, empty_gradients
from vistok_kernels.attention.kernel import (
    Tile,
    attention_kernel,
    code_sums_of_probabilities_kernel,
    codebook_backward_kernel,
    queries_backward_kernel,
    row_means_kernel,
    tile,
)

# two for each multiprocessor of the largest chips
_PROGRAMS = 296


def _on_device_of(tensor: Tensor) -> AbstractContextManager[None]:
    device: AbstractContextManager[None] = torch.cuda.device_of(tensor)  # type: ignore[no-untyped-call]
    return device


def _ceil(length: int, step: int) -> int:
    return -(-length // step)


class _Launch(NamedTuple):
    """Contiguous inputs, and how their programs are cut."""

    scores: tuple[Tensor, Tensor, Tensor, Tensor]
    sizes: tuple[int, int]
    flags: dict[str, int]
    options: dict[str, int]
    cut: Tile

    def splits(self, num_blocks: int, length: int, step: int) -> tuple[int, int]:
        """Into how many parts a stream is split to fill a GPU, and their length, a multiple of the step."""
        wanted = max(1, min(_PROGRAMS // max(num_blocks, 1), _ceil(length, step)))
        part = _ceil(_ceil(length, wanted), step) * step
        return _ceil(length, part), part


def _launch(of: Scores, owner: str) -> _Launch:
    cut = tile(of.queries.shape[1], owner)
    queries, codebook = of.queries.contiguous(), of.codebook.contiguous()
    flags = {
        "DIM": queries.shape[1],
        "HAS_GAIN": of.gain is not None,
        "HAS_BIAS": of.bias is not None,
        "BLOCK_ROWS": cut.rows,
        "BLOCK_CODES": cut.codes,
        "BLOCK_CHANNELS": cut.channels,
    }
    return _Launch(
        # a kernel reads none of what its flags deny
        (
            queries,
            codebook,
            queries if of.gain is None else of.gain.contiguous(),
            queries if of.bias is None else of.bias.contiguous(),
        ),
        (len(queries), len(codebook)),
        flags,
        cut.options(has_limit=torch.version.hip is None),
        cut,
    )


def attention(of: Scores, with_values: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Launches the online softmax and merges its splits; see ``blocked.attention``. A bad latent gets -1 and NaN."""
    run, like = _launch(of, "latents"), of.queries
    (num_latents, num_codes), dim, cut = run.sizes, like.shape[1], run.cut
    num_chunks = _ceil(dim, cut.out) if with_values else 1
    num_blocks = _ceil(num_latents, cut.rows)
    num_splits, part = run.splits(num_blocks * num_chunks, num_codes, cut.codes)
    highest, total = like.new_empty(2, num_splits, num_latents)
    found = like.new_empty(num_splits, num_latents, dtype=torch.int64)
    mixed = like.new_empty(num_splits, num_latents if with_values else 0, dim)
    if num_latents == 0:
        return like.new_empty(0, dim), like.new_empty(0), found[0]
    with _on_device_of(like):
        attention_kernel[(num_blocks, num_splits, num_chunks)](
            *run.scores, highest, total, found, mixed, *run.sizes, part,
            **run.flags, HAS_VALUES=with_values, BLOCK_OUT=cut.out, **run.options,
        )  # fmt: skip
    best = highest.amax(dim=0)
    shrink = torch.exp(highest - best)
    amount = (total * shrink).sum(dim=0)
    logsumexp = best + amount.log()
    indices = torch.where(highest == best, found, num_codes).amin(dim=0)
    values = (mixed * shrink[..., None]).sum(dim=0) / amount[:, None] if with_values else mixed[0]
    return values, logsumexp, indices.masked_fill(logsumexp.isnan(), -1)


def statistics(of: Scores, logsumexp: Tensor) -> tuple[Tensor, Tensor]:
    """Launches both sums; see ``blocked.statistics``."""
    run = _launch(of, "codes")
    (num_latents, num_codes), cut = run.sizes, run.cut
    num_blocks = _ceil(num_codes, cut.codes)
    num_splits, part = run.splits(num_blocks, max(num_latents, 1), cut.rows)
    sums = of.queries.new_empty(num_splits, num_codes)
    with _on_device_of(of.queries):
        code_sums_of_probabilities_kernel[(num_blocks, num_splits)](
            *run.scores, logsumexp, sums, *run.sizes, part, **run.flags, **run.options
        )
    return _row_means(of, logsumexp, None), sums.sum(dim=0) / max(num_latents, 1)


def expectations(of: Scores, logsumexp: Tensor, weights: Tensor) -> Tensor:
    """Launches the sum; see ``blocked.expectations``."""
    return _row_means(of, logsumexp, weights.contiguous())


def _row_means(of: Scores, logsumexp: Tensor, weights: Tensor | None) -> Tensor:
    run = _launch(of, "means")
    (num_latents, num_codes), cut = run.sizes, run.cut
    num_blocks = _ceil(num_latents, cut.rows)
    num_splits, part = run.splits(num_blocks, num_codes, cut.codes)
    means = logsumexp.new_empty(num_splits, num_latents)
    if num_latents:
        with _on_device_of(logsumexp):
            row_means_kernel[(num_blocks, num_splits)](
                *run.scores, logsumexp, logsumexp if weights is None else weights, means, *run.sizes, part,
                **run.flags, ENTROPY=weights is None, **run.options,
            )  # fmt: skip
    return means.sum(dim=0)


def backward(of: Scores, logsumexp: Tensor, upstream: Upstream, for_codebook: bool, soft: bool) -> Gradients:
    """Launches the gradient of the latents and, if wanted, that of the codes; see ``blocked.backward``."""
    if len(of.queries) == 0:
        return Gradients(*(part.zero_() for part in empty_gradients(of, for_codebook)))
    parts = [of.queries if part is None else part.contiguous() for part in upstream]
    flags = {
        "HAS_VALUE": upstream.value is not None,
        "HAS_LOGARITHM": upstream.logarithm is not None,
        "HAS_COLUMN": upstream.column is not None,
    }
    run, like = _launch(of, "latents"), of.queries
    (num_latents, num_codes), dim, cut = run.sizes, like.shape[1], run.cut
    num_blocks, num_chunks = _ceil(num_latents, cut.rows), _ceil(dim, cut.out)
    num_splits, part = run.splits(num_blocks * num_chunks, num_codes, cut.codes)
    of_queries = like.new_empty(num_splits, num_latents, dim)
    with _on_device_of(like):
        queries_backward_kernel[(num_blocks, num_splits, num_chunks)](
            *run.scores, logsumexp, *parts, of_queries, *run.sizes, part,
            **run.flags, **flags, BLOCK_OUT=cut.out, **run.options,
        )  # fmt: skip
    if not for_codebook:
        return Gradients(of_queries.sum(dim=0), *like.new_empty(3, 0))
    flags["SOFT"] = soft and upstream.value is not None
    return Gradients(of_queries.sum(dim=0), *_codebook_backward(of, logsumexp, parts, flags))


def _codebook_backward(
    of: Scores, logsumexp: Tensor, parts: list[Tensor], flags: dict[str, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of codebook, gain and bias, from ``Upstream`` with a tensor in each place."""
    run, like = _launch(of, "codes"), of.queries
    (num_latents, num_codes), dim, cut = run.sizes, like.shape[1], run.cut
    num_blocks, num_chunks = _ceil(num_codes, cut.codes), _ceil(dim, cut.out)
    num_splits, part = run.splits(num_blocks * num_chunks, num_latents, cut.rows)
    of_codes = like.new_empty(num_splits, num_codes, dim)
    of_gain = like.new_empty(num_splits, 0 if of.gain is None else num_codes)
    of_bias = like.new_empty(num_splits, 0 if of.bias is None else num_codes)
    with _on_device_of(like):
        codebook_backward_kernel[(num_blocks, num_splits, num_chunks)](
            *run.scores, logsumexp, *parts, of_codes, of_gain, of_bias, *run.sizes, part,
            **run.flags, **flags, BLOCK_OUT=cut.out, **run.options,
        )  # fmt: skip
    if num_splits == 1:
        # a single part is the sum already, and as large as the codebook
        return of_codes[0], of_gain[0], of_bias[0]
    return of_codes.sum(dim=0), of_gain.sum(dim=0), of_bias.sum(dim=0)
