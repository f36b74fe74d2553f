"""Index backpropagation: the nearest code forward, the softmax over all codes backward."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import vistok_kernels
from vistok.bench.case import Case, Inputs, Provider, Result, Shape, Work
from vistok.bench.exact import distance, not_finite
from vistok.bench.search import draw
from vistok.bench.training import leaf

SCALE = 0.25
# the codebook's gradient is compared against a dense one in float64, this many latents at a time
_CHUNK = 16


def ibq_cases(quick: bool) -> list[Case]:
    """262144 codes of dim 256, 1024 tokens, forward and backward: every code gets a gradient."""
    shape = Shape(64, 128, 16) if quick else Shape(1024, 262144, 256)
    missing = None if hasattr(vistok_kernels, "index_softmax") else "vistok_kernels has no index_softmax yet"
    makers = (
        Provider("vistok", _op, ours=True),
        Provider("dense softmax", _dense, bytes_per_pair=24),
    )
    return [Case("ibq", "forward + backward", shape, draw, _Check(), makers, missing)]


def dense_index_softmax(latents: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """The N x K logits, their softmax and a one-hot table, as published code has them.

    Source: Shi et al., Scalable Image Tokenization with Index Backpropagation Quantization (2024), arXiv:2412.02692,
    section 3.2.

    Shapes:
        latents (N, D), codebook (K, D) -> codes (N, D), indices (N,).
    """
    share = (SCALE * latents @ codebook.T).softmax(dim=1)
    indices = share.argmax(dim=1)
    chosen = F.one_hot(indices, len(codebook)).to(share)
    return (chosen + share - share.detach()) @ codebook, indices


class _Check:
    """Holds indices and both gradients to the dense ones; these are computed once for all providers."""

    def __init__(self) -> None:
        self._expected: dict[str, Tensor] = {}

    def __call__(self, inputs: Inputs, result: Result, ours: bool) -> tuple[str | None, int]:
        assert result.indices is not None
        latents, codebook = inputs.latents.double(), inputs.codebooks[0].double()
        best = torch.cat([(part @ codebook.T).amax(dim=1) for part in torch.split(latents, _CHUNK)])
        chosen = (latents * codebook[result.indices]).sum(dim=1)
        lengths = latents.square().sum(dim=1) + codebook[result.indices].square().sum(dim=1)
        num_wrong = int((best - chosen > 1e-5 * lengths).sum())
        if num_wrong:
            return f"{num_wrong} of {len(latents)} indices are wrong", 0
        if not ours:
            return not_finite(result), 0
        if not self._expected:
            self._expected = _gradients(latents, codebook)
        for name, value in self._expected.items():
            off = distance(result.values[name], value)
            if off > 1e-5:
                return f"{name} is off by {off:.1e} of its largest value", 0
        return None, 0


def _gradients(latents: Tensor, codebook: Tensor) -> dict[str, Tensor]:
    table, parts = leaf(codebook), []
    for part in torch.split(latents, _CHUNK):
        part = leaf(part)
        codes, _ = dense_index_softmax(part, table)
        torch.autograd.backward(codes.square().sum())
        assert part.grad is not None
        parts.append(part.grad)
    assert table.grad is not None
    return {"latent gradient": torch.cat(parts), "codebook gradient": table.grad}


def _work(function: Any, inputs: Inputs) -> Work:
    codebook = inputs.codebooks[0].clone().requires_grad_()

    def work(given: Inputs) -> Result:
        latents, codebook.grad = leaf(given.latents), None
        codes, indices = function(latents, codebook)
        torch.autograd.backward(codes.square().sum())
        assert latents.grad is not None and codebook.grad is not None
        return Result(indices, {"latent gradient": latents.grad, "codebook gradient": codebook.grad})

    return work


def _op(inputs: Inputs) -> Work:
    index_softmax: Any = getattr(vistok_kernels, "index_softmax")  # noqa: B009
    return _work(lambda latents, codebook: index_softmax(latents, codebook, SCALE, "dot"), inputs)


def _dense(inputs: Inputs) -> Work:
    return _work(dense_index_softmax, inputs)
