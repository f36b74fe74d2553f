import math

import pytest
import torch

from vistok.downstream.baseline import frequencies
from vistok.downstream.masked import Masked
from vistok.downstream.parts import Parts, PartTable
from vistok.downstream.vocabulary import Vocabulary

CODES = 6


@pytest.fixture
def model():
    train = torch.randint(CODES, (50, 16, 1))
    table = PartTable(None, frequencies(train, CODES), 16)
    return Masked(Vocabulary(CODES, 1, (CODES,), True), Parts([table], 16, 2), (4, 4), 16, 1, 2, 0.0).eval()


def test_what_a_masked_position_holds_is_not_seen(model):
    parts, masked = torch.randint(CODES, (2, 16, 1)), torch.zeros(2, 16, dtype=torch.bool)
    masked[:, 3] = True
    changed = parts.clone()
    changed[:, 3] = (changed[:, 3] + 1) % CODES
    tables = model.parts.embeddings()
    assert torch.equal(model.hidden(parts, masked, tables), model.hidden(changed, masked, tables))


def test_only_masked_positions_cost(model):
    masked = torch.rand(2, 16) < 0.5
    nats = model.nats(torch.randint(CODES, (2, 16, 1)), masked)
    assert bool((nats[masked] > 0).all()) and bool((nats[~masked] == 0).all())


def test_the_bound_of_a_model_that_knows_frequencies_only_is_their_cost(model):
    torch.nn.init.zeros_(model.trunk.norm.weight)
    torch.nn.init.zeros_(model.trunk.norm.bias)
    parts = torch.randint(CODES, (400, 16, 1))
    bias = model.parts.tables[0].bias.detach()
    wanted = -float(bias[parts].sum(dim=(1, 2)).mean()) / math.log(2)
    with torch.no_grad():
        costs = model.costs((parts,), torch.Generator().manual_seed(0))
    # each image's cost is an average over few masks
    assert float(costs.mean()) == pytest.approx(wanted, rel=0.01)


def test_samples_fill_every_position(model):
    drawn = model.sample(5, seed=1).streams[0]
    assert drawn.shape == (5, 16, 1) and int(drawn.max()) < CODES
    assert torch.equal(drawn, model.sample(5, seed=1).streams[0])
