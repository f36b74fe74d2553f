"""Noise belongs to an image, not to the process that holds it."""

from __future__ import annotations

import pytest
import torch

from vistok.quantizers import Gaussian, Identity
from vistok.training.draws import WholeBatchDraws, seed_draws


@pytest.mark.parametrize("quantizer", [Gaussian(4), Identity(4, noise=1.0)], ids=lambda q: type(q).__name__)
@pytest.mark.parametrize("world_size", [2, 3])
def test_any_number_of_processes_draws_what_one_does(quantizer, world_size):
    latent = torch.randn(6, 3, 5, quantizer.dim_in)
    seed_draws(0, index=7)
    whole = quantizer.train()(latent).quantized
    parts = []
    for rank, part in enumerate(latent.chunk(world_size)):
        seed_draws(0, index=7)
        with WholeBatchDraws(len(part), rank, world_size):
            parts.append(quantizer(part).quantized)
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("draw", [torch.randn, torch.rand])
def test_a_shape_may_be_given_in_any_way(draw):
    seed_draws(0, 0)
    expected = draw(4, 3)[2:]
    for given in (lambda: draw(2, 3), lambda: draw((2, 3)), lambda: draw(size=(2, 3))):
        seed_draws(0, 0)
        with WholeBatchDraws(2, rank=1, world_size=2):
            assert torch.equal(given(), expected)


def test_what_does_not_count_images_is_drawn_as_usual():
    seed_draws(0, 0)
    expected = torch.randn(5, 3), torch.randperm(4)
    seed_draws(0, 0)
    with WholeBatchDraws(2, rank=1, world_size=2):
        assert all(
            torch.equal(a, b) for a, b in zip((torch.randn(5, 3), torch.randperm(4)), expected, strict=True)
        )


def test_micro_batches_and_seeds_draw_different_numbers():
    def drawn(seed, index):
        seed_draws(seed, index)
        return float(torch.rand(()))

    assert len({drawn(0, 0), drawn(0, 1), drawn(1, 0)}) == 3 and drawn(2, 5) == drawn(2, 5)
