"""The custom ops of attention over a codebook: which path takes them, their shapes and their gradients."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from vistok_kernels.attention import blocked
from vistok_kernels.attention.blocked import Scores, Upstream
from vistok_kernels.checks import check_finite

Three = tuple[Tensor, Tensor, Tensor]
Four = tuple[Tensor, Tensor, Tensor, Tensor]


def _check_values(of: Scores) -> None:
    check_finite(of.codebook, "codebook values", "reinitialise it, and look for the update that broke it")
    check_finite(
        of.queries,
        "latents",
        "look for the overflow in the encoder: a lower learning rate or float32 may cure it",
    )


def _check_scores(logsumexp: Tensor) -> None:
    check_finite(
        logsumexp, "scores of latents and codes", "lower the scale, or look for latents or codes that grow"
    )


def _has_kernel(queries: Tensor) -> bool:
    """Whether Triton is there and takes these: its kernels compute in float32."""
    return queries.dtype == torch.float32 and find_spec("triton") is not None


def _attend(
    queries: Tensor, codebook: Tensor, gain: Tensor | None, bias: Tensor | None, soft: bool
) -> tuple[Tensor, Tensor, Tensor]:
    of = Scores(queries, codebook, gain, bias)
    _check_values(of)
    # a caller's autocast must not reach the products
    with torch.autocast(queries.device.type, enabled=False):
        values, logsumexp, indices = blocked.attention(of, True)
    _check_scores(logsumexp)
    return values, logsumexp, indices


def _statistics(
    queries: Tensor, codebook: Tensor, gain: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    of = Scores(queries, codebook, gain, bias)
    _check_values(of)
    with torch.autocast(queries.device.type, enabled=False):
        _, logsumexp, _ = blocked.attention(of, False)
        _check_scores(logsumexp)
        entropies, mean = blocked.statistics(of, logsumexp)
    return entropies, mean, logsumexp


def _expect(
    queries: Tensor,
    codebook: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    logsumexp: Tensor,
    weights: Tensor,
) -> Tensor:
    with torch.autocast(queries.device.type, enabled=False):
        return blocked.expectations(Scores(queries, codebook, gain, bias), logsumexp, weights)


def _propagate(
    queries: Tensor,
    codebook: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    logsumexp: Tensor,
    row: Tensor,
    value: Tensor | None,
    logarithm: Tensor | None,
    column: Tensor | None,
    for_codebook: bool,
    soft: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    of, upstream = Scores(queries, codebook, gain, bias), Upstream(row, value, logarithm, column)
    with torch.autocast(queries.device.type, enabled=False):
        result = blocked.backward(of, logsumexp, upstream, for_codebook, soft)
    return result.queries, result.codebook, result.gain, result.bias


# values (N, D), logsumexp (N,), indices (N,); `soft`: codes learn as parts of the values, else the chosen one alone
attention = torch.library.custom_op("vistok_kernels::codebook_attention", _attend, mutates_args=())
# entropies (N,), mean probabilities (K,), logsumexp (N,), the last not differentiable
statistics = torch.library.custom_op("vistok_kernels::codebook_statistics", _statistics, mutates_args=())
_expectations = torch.library.custom_op("vistok_kernels::codebook_expectations", _expect, mutates_args=())
_backward = torch.library.custom_op(
    "vistok_kernels::codebook_attention_backward", _propagate, mutates_args=()
)


@attention.register_kernel("cuda")
def _(
    queries: Tensor, codebook: Tensor, gain: Tensor | None, bias: Tensor | None, soft: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if not _has_kernel(queries):
        return _attend(queries, codebook, gain, bias, soft)
    from vistok_kernels.attention import launch

    return launch.attention(Scores(queries, codebook, gain, bias), True)


@statistics.register_kernel("cuda")
def _(
    queries: Tensor, codebook: Tensor, gain: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    if not _has_kernel(queries):
        return _statistics(queries, codebook, gain, bias)
    from vistok_kernels.attention import launch

    of = Scores(queries, codebook, gain, bias)
    _, logsumexp, _ = launch.attention(of, False)
    entropies, mean = launch.statistics(of, logsumexp)
    return entropies, mean, logsumexp


@_expectations.register_kernel("cuda")
def _(
    queries: Tensor,
    codebook: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    logsumexp: Tensor,
    weights: Tensor,
) -> Tensor:
    if not _has_kernel(queries):
        return _expect(queries, codebook, gain, bias, logsumexp, weights)
    from vistok_kernels.attention import launch

    return launch.expectations(Scores(queries, codebook, gain, bias), logsumexp, weights)


@_backward.register_kernel("cuda")
def _(
    queries: Tensor,
    codebook: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    logsumexp: Tensor,
    row: Tensor,
    value: Tensor | None,
    logarithm: Tensor | None,
    column: Tensor | None,
    for_codebook: bool,
    soft: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    upstream = Upstream(row, value, logarithm, column)
    if not _has_kernel(queries):
        return _propagate(queries, codebook, gain, bias, logsumexp, *upstream, for_codebook, soft)
    from vistok_kernels.attention import launch

    result = launch.backward(Scores(queries, codebook, gain, bias), logsumexp, upstream, for_codebook, soft)
    return result.queries, result.codebook, result.gain, result.bias


@attention.register_fake
def _(
    queries: Tensor, codebook: Tensor, gain: Tensor | None, bias: Tensor | None, soft: bool
) -> tuple[Tensor, Tensor, Tensor]:
    num_latents = queries.shape[0]
    return (
        queries.new_empty(queries.shape),
        queries.new_empty(num_latents),
        queries.new_empty(num_latents, dtype=torch.int64),
    )


@statistics.register_fake
def _(
    queries: Tensor, codebook: Tensor, gain: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    num_latents = queries.shape[0]
    return (
        queries.new_empty(num_latents),
        queries.new_empty(codebook.shape[0]),
        queries.new_empty(num_latents),
    )


@_expectations.register_fake
def _(
    queries: Tensor,
    codebook: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    logsumexp: Tensor,
    weights: Tensor,
) -> Tensor:
    return queries.new_empty(queries.shape[0])


@_backward.register_fake
def _(
    queries: Tensor,
    codebook: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    logsumexp: Tensor,
    row: Tensor,
    value: Tensor | None,
    logarithm: Tensor | None,
    column: Tensor | None,
    for_codebook: bool,
    soft: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    result = blocked.empty_gradients(Scores(queries, codebook, gain, bias), for_codebook)
    return result.queries, result.codebook, result.gain, result.bias


def _keep_attention(ctx: Any, inputs: tuple[Any, ...], output: Three) -> None:
    *scores, ctx.soft = inputs
    ctx.save_for_backward(*scores, *output)
    ctx.mark_non_differentiable(output[2])
    # the gradient of what nobody used would cost two products
    ctx.set_materialize_grads(False)


def _attention_backward(
    ctx: Any, for_values: Tensor | None, for_logsumexp: Tensor | None, _: Any
) -> tuple[Tensor | None, ...]:
    *scores, values, logsumexp, indices = ctx.saved_tensors
    if for_values is None and for_logsumexp is None:
        return (None,) * 5
    row = torch.zeros_like(logsumexp) if for_logsumexp is None else for_logsumexp
    if for_values is not None:
        row = row - (for_values * values).sum(dim=1)
    wanted = any(ctx.needs_input_grad[1:4])
    found = _backward(*scores, logsumexp, row, for_values, None, None, wanted, ctx.soft)
    if wanted and for_values is not None and not ctx.soft:
        found[1].index_add_(0, indices.clamp(min=0), for_values)
    return (*_wanted(ctx, found), None)


def _keep_statistics(ctx: Any, inputs: tuple[Any, ...], output: Three) -> None:
    entropies, _, logsumexp = output
    ctx.save_for_backward(*inputs, entropies, logsumexp)
    ctx.mark_non_differentiable(logsumexp)
    ctx.set_materialize_grads(False)


def _statistics_backward(
    ctx: Any, for_entropies: Tensor | None, for_mean: Tensor | None, _: Any
) -> tuple[Tensor | None, ...]:
    *scores, entropies, logsumexp = ctx.saved_tensors
    if for_entropies is None and for_mean is None:
        return (None,) * 4
    row = torch.zeros_like(logsumexp)
    logarithm = column = None
    if for_entropies is not None:
        logarithm = -for_entropies
        row = row + logarithm * entropies
    if for_mean is not None:
        column = for_mean / max(entropies.shape[0], 1)
        row = row - _expectations(*scores, logsumexp, column)
    wanted = any(ctx.needs_input_grad[1:4])
    return _wanted(ctx, _backward(*scores, logsumexp, row, None, logarithm, column, wanted, False))


def _wanted(ctx: Any, found: Four) -> tuple[Tensor | None, ...]:
    return tuple(
        part if needed else None for part, needed in zip(found, ctx.needs_input_grad[:4], strict=True)
    )


attention.register_autograd(_attention_backward, setup_context=_keep_attention)
statistics.register_autograd(_statistics_backward, setup_context=_keep_statistics)
