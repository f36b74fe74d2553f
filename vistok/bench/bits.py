"""Quantizers without a table: bits with their entropies, and finite scalars."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import vistok.quantizers as quantizers
import vistok_kernels
from vistok.bench.case import Case, Inputs, Provider, Result, Shape, Work
from vistok.bench.exact import check_signs, distance, not_finite
from vistok.bench.training import backward_of, leaf

LEVELS = (8, 5, 5, 5)
# the softmax over codes is of 2 * SCALE * <latent, code>: here bits are neither certain nor even
SCALE = 1.0
_PEER = "vector-quantize-pytorch"
_PEER_MODULE = "vector_quantize_pytorch"


def lfq_cases(quick: bool) -> list[Case]:
    """Evaluation and a training step, entropies included, of LFQ with 2^16 codes."""
    dim = 8 if quick else 16
    shape = Shape(256 if quick else 8192, 2**dim, dim)
    missing = None if hasattr(quantizers, "LFQ") else "vistok.quantizers has no LFQ yet"
    found = []
    for stage, training in (("forward", False), ("training step", True)):
        makers = (
            Provider("vistok", _lfq if training else _lfq_forward, ours=True),
            Provider(
                _PEER,
                _peer_lfq if training else _peer_lfq_forward,
                _PEER_MODULE,
                _PEER,
                bytes_per_pair=28 if training else 0,
            ),
        )
        found.append(Case("lfq", stage, shape, _draw_bits, check_signs, makers, missing))
    return found


def fsq_cases(quick: bool) -> list[Case]:
    """Evaluation and a training step of FSQ with 1000 codes."""
    shape = Shape(256 if quick else 8192, 1000, len(LEVELS))
    found = []
    for stage, training in (("forward", False), ("training step", True)):
        makers = (
            Provider("vistok", _fsq if training else _fsq_forward, ours=True),
            Provider("reference", _reference_fsq if training else _reference_fsq_forward),
            Provider(_PEER, _peer_fsq if training else _peer_fsq_forward, _PEER_MODULE, _PEER),
        )
        found.append(Case("fsq", stage, shape, _draw_bits, _check_fsq, makers))
    return found


def entropy_cases(quick: bool) -> list[Case]:
    """Per-sample and exact batch entropy of 18 bits at 4096 tokens, forward and backward."""
    dim = 8 if quick else 18
    shape = Shape(128 if quick else 4096, 2**dim, dim)
    absent = [name for name in ("bit_entropy", "code_entropy") if not hasattr(vistok_kernels, name)]
    missing = f"vistok_kernels has no {' and no '.join(absent)} yet" if absent else None
    makers = (
        Provider("vistok", _entropies, ours=True),
        Provider("dense softmax", _dense_entropies, bytes_per_pair=28),
        # its scale is fixed, so its numbers cannot be compared: its indices are
        Provider(_PEER, _peer_lfq, _PEER_MODULE, _PEER, bytes_per_pair=28),
    )
    return [Case("bit_entropy", "forward + backward", shape, _draw_bits, _check_entropies, makers, missing)]


def _draw_bits(shape: Shape, device: str) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(shape.num_latents, shape.dim, generator=generator).to(device)
    return Inputs(latents, latents.new_empty(1, 0, shape.dim))


def _check_fsq(inputs: Inputs, result: Result, ours: bool) -> tuple[str | None, int]:
    assert result.indices is not None
    found = [_fsq_fault(bounded, result.indices.flatten()) for bounded in _fsq_bounds(inputs, ours)]
    num_wrong, num_ties = min(found)
    fault = f"{num_wrong} of {len(inputs.latents)} indices are wrong" if num_wrong else not_finite(result)
    return fault, num_ties


def _fsq_bounds(inputs: Inputs, ours: bool) -> list[Tensor]:
    """The bounded latents by the paper and, for peers, also with the atanh and the wider reach that some code has."""
    from vistok_kernels.fsq import reference

    latents = inputs.latents.double()
    bounds = [reference.bound(latents, LEVELS)]
    if not ours:
        levels = torch.tensor(LEVELS, dtype=torch.float64, device=latents.device)
        reach, offset = (levels - 1) * (1 + 1e-3) / 2, (levels % 2 == 0) * 0.5
        bounds.append(torch.tanh(latents + torch.atanh(offset / reach)) * reach - offset)
    return bounds


def _fsq_fault(bounded: Tensor, indices: Tensor) -> tuple[int, int]:
    """How many indices are wrong, and how many differ where float32 may round either way."""
    expected, base = torch.zeros_like(indices), 1
    for channel, level in enumerate(LEVELS):
        expected += (bounded[:, channel].round().long() + level // 2) * base
        base *= level
    differing = indices != expected
    nearly = ((bounded - bounded.floor() - 0.5).abs() < 1e-5).any(dim=1)
    return int((differing & ~nearly).sum()), int((differing & nearly).sum())


def _check_entropies(inputs: Inputs, result: Result, ours: bool) -> tuple[str | None, int]:
    fault, ties = check_signs(inputs, result, ours)
    if fault or result.indices is not None:
        return fault, ties
    expected = exact_entropies(inputs.latents, chunk=max(1, (1 << 24) >> inputs.latents.shape[1]))
    for name, value in expected.items():
        off = distance(result.values[name], value)
        if off > 1e-4:
            return f"{name} is off by {off:.1e} of its largest value", 0
    return None, 0


def exact_entropies(latents: Tensor, chunk: int) -> dict[str, Tensor]:
    """Both entropies and the gradient of their difference in float64, by the whole softmax, a few tokens at a time."""
    latents = latents.double()
    codes = all_codes(latents.shape[1]).to(latents)
    with torch.no_grad():
        mean = torch.zeros_like(codes[:, 0])
        for part in torch.split(latents, chunk):
            mean += _softmax(part, codes).sum(dim=0) / len(latents)
        slope = -(mean.log() + 1)  # of the mean distribution's entropy
        total, gradients = latents.new_zeros(()), []
    for part in torch.split(latents, chunk):
        part = leaf(part)
        share = _softmax(part, codes)
        own = torch.special.entr(share).sum() / len(latents)
        torch.autograd.backward(own - (share * slope).sum() / len(latents))
        assert part.grad is not None
        gradients.append(part.grad)
        total += own.detach()
    return {
        "sample entropy": total,
        "batch entropy": torch.special.entr(mean).sum(),
        "gradient": torch.cat(gradients),
    }


def all_codes(num_bits: int) -> Tensor:
    """All corners of the cube, the first channel being the most significant bit: (2^d, d) of -1 and 1."""
    powers = 2 ** torch.arange(num_bits - 1, -1, -1)
    return (torch.arange(2**num_bits).unsqueeze(1) // powers % 2 * 2 - 1).float()


def _softmax(latents: Tensor, codes: Tensor) -> Tensor:
    return (2 * SCALE * latents @ codes.T).softmax(dim=1)


def _entropies(inputs: Inputs) -> Work:
    bit_entropy: Any = getattr(vistok_kernels, "bit_entropy")  # noqa: B009
    code_entropy: Any = getattr(vistok_kernels, "code_entropy")  # noqa: B009

    def work(given: Inputs) -> Result:
        latents = leaf(given.latents)
        own, batch = bit_entropy(latents, SCALE), code_entropy(latents, SCALE)
        return _entropy_result(latents, own, batch)

    return work


def _dense_entropies(inputs: Inputs) -> Work:
    codes = all_codes(inputs.latents.shape[1]).to(inputs.latents)

    def work(given: Inputs) -> Result:
        latents = leaf(given.latents)
        share = _softmax(latents, codes)
        logs = share.clamp_min(1e-20).log()
        mean = share.mean(dim=0)
        own, batch = -(share * logs).sum(dim=1).mean(), torch.special.entr(mean).sum()
        return _entropy_result(latents, own, batch)

    return work


def _entropy_result(latents: Tensor, own: Tensor, batch: Tensor) -> Result:
    torch.autograd.backward(own - batch)
    assert latents.grad is not None
    values = {"sample entropy": own.detach(), "batch entropy": batch.detach(), "gradient": latents.grad}
    return Result(values=values)


def _lfq_module(inputs: Inputs) -> Any:
    made: Any = getattr(quantizers, "LFQ")  # noqa: B009
    return made(inputs.latents.shape[1]).to(inputs.latents.device)


def _step(quantizer: Any) -> Work:
    """A training step under vistok's contract."""

    def work(given: Inputs) -> Result:
        latents = leaf(given.latents)
        output = quantizer(latents[None])
        loss = sum(output.losses.values(), latents.new_zeros(()))
        gradient = backward_of(output.quantized, loss, latents)
        quantizer.update()
        return Result(output.indices[0], {"gradient": gradient})

    return work


def _forward(quantizer: Any) -> Work:
    @torch.no_grad()
    def work(given: Inputs) -> Result:
        return Result(quantizer(given.latents[None]).indices[0])

    return work


def _lfq(inputs: Inputs) -> Work:
    return _step(_lfq_module(inputs).train())


def _lfq_forward(inputs: Inputs) -> Work:
    return _forward(_lfq_module(inputs).eval())


def _peer_module(inputs: Inputs) -> Any:
    from vector_quantize_pytorch import LFQ

    dim = inputs.latents.shape[1]
    return LFQ(dim=dim, codebook_size=2**dim).to(inputs.latents.device)


def _peer_lfq(inputs: Inputs) -> Work:
    peer = _peer_module(inputs).train()

    def work(given: Inputs) -> Result:
        latents = leaf(given.latents)
        quantized, indices, loss = peer(latents[None])
        return Result(indices[0], {"gradient": backward_of(quantized, loss, latents)})

    return work


def _peer_lfq_forward(inputs: Inputs) -> Work:
    peer = _peer_module(inputs).eval()

    @torch.no_grad()
    def work(given: Inputs) -> Result:
        return Result(peer(given.latents[None])[1][0])

    return work


def _fsq(inputs: Inputs) -> Work:
    return _step(quantizers.FSQ(LEVELS).to(inputs.latents.device).train())


def _fsq_forward(inputs: Inputs) -> Work:
    return _forward(quantizers.FSQ(LEVELS).to(inputs.latents.device).eval())


def _reference_fsq(inputs: Inputs) -> Work:
    from vistok_kernels.fsq import reference

    def work(given: Inputs) -> Result:
        latents = leaf(given.latents)
        quantized, indices = reference.fsq(latents, LEVELS)
        return Result(indices, {"gradient": backward_of(quantized, latents.new_zeros(()), latents)})

    return work


def _reference_fsq_forward(inputs: Inputs) -> Work:
    from vistok_kernels.fsq import reference

    return lambda given: Result(reference.fsq(given.latents, LEVELS)[1])


def _peer_fsq(inputs: Inputs) -> Work:
    from vector_quantize_pytorch import FSQ

    peer = FSQ(list(LEVELS)).to(inputs.latents.device).train()

    def work(given: Inputs) -> Result:
        latents = leaf(given.latents)
        quantized, indices = peer(latents[None])
        return Result(indices[0].long(), {"gradient": backward_of(quantized, latents.new_zeros(()), latents)})

    return work


def _peer_fsq_forward(inputs: Inputs) -> Work:
    from vector_quantize_pytorch import FSQ

    peer = FSQ(list(LEVELS)).to(inputs.latents.device).eval()

    @torch.no_grad()
    def work(given: Inputs) -> Result:
        return Result(peer(given.latents[None])[1][0].long())

    return work
