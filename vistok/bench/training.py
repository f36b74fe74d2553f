"""Training steps of quantizers with a codebook: forward, backward and update."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.bench.case import Case, Inputs, Provider, Result, Shape, Work
from vistok.bench.exact import check_search, check_stages, distance
from vistok.bench.search import argmin_of_cdist, draw

# of the moving averages, and the default of vistok's
DECAY = 0.99
_PEER = "vector-quantize-pytorch"
_PEER_MODULE = "vector_quantize_pytorch"


def vq_cases(quick: bool) -> list[Case]:
    """An EMA training step of VQ: 8192 latents, 16384 codes of dim 8."""
    shape = Shape(256, 64, 4) if quick else Shape(8192, 16384, 8)
    makers = (
        Provider("vistok", _vq, ours=True),
        Provider("reference", _dense_step, bytes_per_pair=8),
        Provider(_PEER, _peer_vq, _PEER_MODULE, _PEER, bytes_per_pair=24),
    )
    return [Case("vq_step", "training step", shape, draw, _check_step, makers)]


def residual_cases(quick: bool) -> list[Case]:
    """Evaluation and a training step of four residual stages of 4096 codes of dim 8."""
    shape = Shape(256, 32, 4, 3) if quick else Shape(8192, 4096, 8, 4)
    found = []
    for stage, training in (("forward", False), ("training step", True)):
        makers = (
            Provider("vistok", _residual if training else _residual_forward, ours=True),
            Provider(
                _PEER,
                _peer_residual if training else _peer_residual_forward,
                _PEER_MODULE,
                _PEER,
                bytes_per_pair=24,
            ),
        )
        found.append(Case("residual", stage, shape, draw, check_stages, makers))
    return found


def backward_of(quantized: Tensor, loss: Tensor, latents: Tensor) -> Tensor:
    """The gradient of a reconstruction-like loss and the quantizer's own; parameters get theirs."""
    torch.autograd.backward(quantized.square().mean() + loss)
    assert latents.grad is not None
    return latents.grad


def leaf(latents: Tensor) -> Tensor:
    """The latents as what an encoder gave: wanting a gradient, which starts empty."""
    return latents.detach().requires_grad_()


def _check_step(inputs: Inputs, result: Result, ours: bool) -> tuple[str | None, int]:
    fault, ties = check_search(inputs, result, ours)
    if fault or not ours or not result.values:
        return fault, ties
    assert result.indices is not None
    codebook = inputs.codebooks[0].double()
    latents, indices = inputs.latents.double(), result.indices.flatten()
    codes = codebook[indices]
    scale = 2 / latents.numel()
    sums = torch.zeros_like(codebook).index_add_(0, indices, latents)
    counts = torch.bincount(indices, minlength=len(codebook)).double().unsqueeze(1)
    expected = {
        "gradient": scale * codes + scale * (latents - codes),
        "commitment": (latents - codes).square().mean(),
        "codebook": (DECAY * codebook + (1 - DECAY) * sums) / (DECAY + (1 - DECAY) * counts),
    }
    for name, value in expected.items():
        off = distance(result.values[name], value)
        if off > 1e-4:
            return f"{name} is off by {off:.1e} of its largest value", ties
    return None, ties


def _vq(inputs: Inputs) -> Work:
    from vistok.quantizers import VQ

    codebook = inputs.codebooks[0]
    quantizer = VQ(len(codebook), codebook.shape[1], update="ema", init="uniform")
    quantizer.to(codebook.device).train()
    quantizer.set_codebook(codebook)

    def work(given: Inputs) -> Result:
        latents = leaf(given.latents)
        output = quantizer(latents[None])
        commitment = output.losses["commitment"]
        gradient = backward_of(output.quantized, commitment, latents)
        quantizer.update()
        assert output.indices is not None
        moved = quantizer.codebook.detach()
        return Result(
            output.indices[0],
            {"gradient": gradient, "commitment": commitment.detach(), "codebook": moved},
        )

    return work


def _dense_step(inputs: Inputs) -> Work:
    codebook = inputs.codebooks[0].clone()
    counts, sums = codebook.new_ones(len(codebook)), codebook.clone()

    def work(given: Inputs) -> Result:
        latents = leaf(given.latents)
        with torch.no_grad():
            indices = argmin_of_cdist(latents, codebook)
        codes = codebook[indices]
        gradient = backward_of(latents + (codes - latents).detach(), F.mse_loss(latents, codes), latents)
        counts.mul_(DECAY).add_(torch.bincount(indices, minlength=len(codebook)), alpha=1 - DECAY)
        sums.mul_(DECAY).index_add_(0, indices, given.latents, alpha=1 - DECAY)
        torch.div(sums, counts.unsqueeze(1), out=codebook)
        return Result(indices, {"gradient": gradient})

    return work


def _peer_vq(inputs: Inputs) -> Work:
    from vector_quantize_pytorch import VectorQuantize

    codebook = inputs.codebooks[0]
    peer = VectorQuantize(
        dim=codebook.shape[1], codebook_size=len(codebook), decay=DECAY, rotation_trick=False
    )
    peer.to(codebook.device).train()
    peer.codebook = codebook
    return _peer_work(peer)


def _peer_work(peer: nn.Module) -> Work:
    def work(given: Inputs) -> Result:
        latents = leaf(given.latents)
        quantized, indices, loss = peer(latents[None])
        return Result(indices[0], {"gradient": backward_of(quantized, loss.sum(), latents)})

    return work


def _residual_module(inputs: Inputs) -> nn.Module:
    from vistok.quantizers import VQ, Residual

    stages, size, dim = inputs.codebooks.shape
    quantizer = Residual(VQ(size, dim, update="ema", init="uniform"), stages)
    quantizer.to(inputs.codebooks.device)
    for stage, codebook in zip(quantizer.stages, inputs.codebooks, strict=True):
        assert isinstance(stage, VQ)
        stage.set_codebook(codebook)
    return quantizer


def _residual(inputs: Inputs) -> Work:
    quantizer = _residual_module(inputs).train()

    def work(given: Inputs) -> Result:
        latents = leaf(given.latents)
        output = quantizer(latents[None])
        gradient = backward_of(output.quantized, output.losses["commitment"], latents)
        quantizer.update()  # type: ignore[operator]
        return Result(output.indices[0], {"gradient": gradient})

    return work


def _residual_forward(inputs: Inputs) -> Work:
    quantizer = _residual_module(inputs).eval()

    @torch.no_grad()
    def work(given: Inputs) -> Result:
        return Result(quantizer(given.latents[None]).indices[0])

    return work


def _peer_residual_module(inputs: Inputs) -> nn.Module:
    from vector_quantize_pytorch import ResidualVQ

    stages, size, dim = inputs.codebooks.shape
    peer = ResidualVQ(dim=dim, codebook_size=size, num_quantizers=stages, decay=DECAY, rotation_trick=False)
    peer.to(inputs.codebooks.device)
    for layer, codebook in zip(peer.layers, inputs.codebooks, strict=True):
        layer.codebook = codebook
    return peer  # type: ignore[no-any-return]


def _peer_residual(inputs: Inputs) -> Work:
    return _peer_work(_peer_residual_module(inputs).train())


def _peer_residual_forward(inputs: Inputs) -> Work:
    peer = _peer_residual_module(inputs).eval()

    @torch.no_grad()
    def work(given: Inputs) -> Result:
        return Result(peer(given.latents[None])[1][0])

    return work
