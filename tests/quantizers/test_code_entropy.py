import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from tests.ranks import group
from vistok.quantizers import VQ, CodeEntropy, IndexSoftmax


def dense(latent, table, temperature):
    weights = (-torch.cdist(latent.flatten(0, 1), table).square() / temperature).softmax(dim=-1)
    mean = weights.mean(dim=0)
    return {
        "sample_entropy": torch.special.entr(weights).sum(dim=-1).mean(),
        "batch_entropy": -torch.special.entr(mean).sum(),
    }


def test_both_entropies_and_their_gradients_are_those_of_the_dense_softmax():
    torch.manual_seed(0)
    quantizer = CodeEntropy(VQ(32, 4, init="normal"), temperature=0.5).train()
    latent = torch.randn(2, 20, 4, requires_grad=True)
    losses = quantizer(latent).losses
    expected = dense(latent, quantizer.inner.codebook, 0.5)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
        ours = torch.autograd.grad(losses[name], (latent, quantizer.inner.codebook), retain_graph=True)
        theirs = torch.autograd.grad(value, (latent, quantizer.inner.codebook), retain_graph=True)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_the_bounds_are_a_sure_choice_and_codes_used_alike():
    codes = torch.eye(8)
    quantizer = CodeEntropy(VQ(8, 8, init="normal"), temperature=0.01).train()
    quantizer.inner.set_codebook(codes)
    losses = quantizer(codes[None]).losses
    assert abs(losses["sample_entropy"].item()) < 1e-4
    assert losses["batch_entropy"].item() == pytest.approx(-math.log(8), abs=1e-4)


def test_nothing_is_measured_without_the_wrapper_or_out_of_training():
    quantizer = CodeEntropy(VQ(8, 4, init="normal")).eval()
    latent = torch.randn(1, 5, 4)
    assert set(quantizer(latent).losses) == set(quantizer.inner.loss_names)
    assert set(quantizer.inner.train()(latent).losses) == {"commitment", "codebook"}


def test_it_goes_with_index_softmax_and_everything_else_of_a_vq():
    quantizer = CodeEntropy(VQ(16, 4, metric="dot", estimator=IndexSoftmax(), init="kmeans"), 0.01).train()
    latent = torch.randn(1, 50, 4)
    quantizer.prepare(latent)
    assert set(quantizer(latent).losses) == set(quantizer.loss_names)
    assert quantizer.stream() == quantizer.inner.stream()
    with pytest.raises(ValueError, match="temperature"):
        CodeEntropy(VQ.tiny(), 0.0)


def _measure(rank: int, world_size: int, folder: str) -> None:
    torch.manual_seed(0)
    quantizer = CodeEntropy(VQ(24, 3, init="normal"), temperature=0.3).train()
    with group(rank, world_size, folder):
        batch = torch.randn(8, 5, 3, generator=torch.Generator().manual_seed(1))
        losses = quantizer(batch.chunk(world_size)[rank]).losses
        (gradient,) = torch.autograd.grad(
            losses["batch_entropy"] + losses["sample_entropy"], quantizer.inner.codebook
        )
        if world_size > 1:
            # as data-parallel training does
            dist.all_reduce(gradient)
            gradient /= world_size
        if rank == 0:
            torch.save((losses["batch_entropy"].detach(), gradient), Path(folder) / f"{world_size}.pt")


def test_the_batch_entropy_and_its_gradient_are_equal_on_1_2_and_4_processes(tmp_path):
    _measure(0, 1, str(tmp_path))
    expected = torch.load(tmp_path / "1.pt")
    for world_size in (2, 4):
        spawn(_measure, (world_size, str(tmp_path)), nprocs=world_size)
        for found, wanted in zip(torch.load(tmp_path / f"{world_size}.pt"), expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)
