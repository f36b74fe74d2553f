import itertools

import pytest
import torch

from vistok.downstream.parts import Parts, PartTable

SIZES = (3, 4, 2)


@pytest.fixture
def parts():
    tables = [PartTable(torch.randn(size, 5), torch.full((size,), 1 / size), 16) for size in SIZES]
    return Parts(tables, 16, 2).eval()


def test_the_probabilities_of_all_combinations_sum_to_one(parts):
    every = torch.tensor(list(itertools.product(*map(range, SIZES))))
    hidden = torch.randn(16).expand(len(every), 16)
    with torch.no_grad():
        nats = parts.nats(hidden, every, parts.embeddings())
    assert float((-nats).exp().sum()) == pytest.approx(1.0, abs=1e-5)


def test_what_is_drawn_has_the_probability_that_it_costs(parts):
    hidden = torch.randn(5, 7, 16)
    with torch.no_grad():
        drawn, log_probability = parts.sample(hidden, parts.embeddings(), torch.Generator().manual_seed(0))
        nats = parts.nats(hidden, drawn, parts.embeddings())
    assert drawn.shape == (5, 7, 3)
    assert torch.allclose(nats, -log_probability, atol=1e-5)


def test_a_part_is_scored_without_those_after_it(parts):
    hidden, tables = torch.randn(1, 16), parts.embeddings()
    a, b = (parts._states(hidden, torch.tensor([[2, last, 0]]), tables) for last in (0, 3))
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert not torch.allclose(a[2], b[2])
