import math

import pytest
import torch

from vistok.downstream.ar import Autoregressive
from vistok.downstream.baseline import entropy_bits, frequencies, unigram_bits
from vistok.downstream.parts import Parts, PartTable
from vistok.downstream.training import Budget, fit, mean_cost
from vistok.downstream.vocabulary import Vocabulary

CODES = 12


def stripes(count: int, seed: int) -> torch.Tensor:
    """4 x 4 grids whose rows repeat one random row: the first row is free, the rest is certain."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(CODES, (count, 1, 4), generator=generator)
    return rows.expand(count, 4, 4).reshape(count, 16, 1)


def small_model(train: torch.Tensor, dropout: float = 0.0) -> Autoregressive:
    torch.manual_seed(0)
    table = PartTable(torch.randn(CODES, 6), frequencies(train, CODES), 32)
    vocabulary = Vocabulary(CODES, 1, (CODES,), True)
    parts = Parts([table], 32, 2)
    return Autoregressive([vocabulary], [parts], [(4, 4)], width=32, depth=2, num_heads=2, dropout=dropout)


def bits_per_token(model: Autoregressive, tokens: torch.Tensor) -> float:
    return mean_cost(model, (tokens,)) / tokens.shape[1]


def test_training_starts_at_the_unigram_loss():
    train, held_out = stripes(128, 0), stripes(32, 1)
    start = bits_per_token(small_model(train), held_out)
    assert start == pytest.approx(unigram_bits(train, held_out, CODES), abs=0.1)


def test_a_structured_sequence_is_learned_below_its_unigram_loss():
    train, held_out = stripes(256, 0), stripes(64, 1)
    points = fit(small_model(train), (train,), (held_out,), Budget(steps=150))
    assert points[0].step == 0 and points[-1].step == 150
    assert points[-1].held_out / 16 < unigram_bits(train, held_out, CODES) - 1.0


def test_training_ends_at_its_time_limit():
    train = stripes(64, 0)
    points = fit(small_model(train), (train,), (train,), Budget(seconds=0.0, steps=1000))
    assert points[-1].step == 1


def test_a_prediction_sees_no_token_that_comes_later():
    train = stripes(8, 0)
    model = small_model(train).eval()
    tokens, tables = train[:1, :-1].clone(), model.tables()
    changed = tokens.clone()
    changed[0, 7] = (changed[0, 7] + 1) % CODES
    before, after = model.hidden([tokens], tables), model.hidden([changed], tables)
    assert torch.allclose(before[:, :8], after[:, :8], atol=1e-6)
    assert not torch.allclose(before[:, 8:], after[:, 8:], atol=1e-4)


def test_samples_are_token_grids_that_depend_on_the_seed_only():
    model = small_model(stripes(8, 0), dropout=0.5)
    first, again = model.sample(3, seed=5).streams[0], model.sample(3, seed=5).streams[0]
    assert first.shape == (3, 16, 1) and first.dtype == torch.int64
    assert torch.equal(first, again)
    assert not torch.equal(first, model.sample(3, seed=6).streams[0])
    assert int(first.min()) >= 0 and int(first.max()) < CODES


def test_samples_follow_the_distribution_that_was_learned():
    train = stripes(256, 0)
    model = small_model(train)
    fit(model, (train,), (train,), Budget(steps=200))
    rows = model.sample(16).streams[0].view(16, 4, 4)
    assert float((rows == rows[:, :1]).float().mean()) > 0.55  # 0.31 by chance


def test_the_cost_of_an_image_is_the_sum_of_its_conditional_probabilities():
    train = stripes(8, 0)
    model = small_model(train).eval()
    tables = model.tables()
    with torch.no_grad():
        logits = model.hidden([train[:1, :-1]], tables) @ tables[0][0].T + model.parts[0].tables[0].bias
        wanted = -logits.log_softmax(-1).gather(-1, train[:1]).sum() / math.log(2)
        found = model.costs((train[:1],), torch.Generator())
    assert float(found[0]) == pytest.approx(float(wanted), rel=1e-5)


def test_the_unigram_cost_of_uniform_tokens_is_the_logarithm_of_the_codebook_size():
    tokens = torch.arange(8).repeat(1000)
    assert unigram_bits(tokens, tokens, 8) == pytest.approx(3.0)
    assert entropy_bits(tokens, 8) == pytest.approx(3.0)
    assert entropy_bits(torch.zeros(5, dtype=torch.int64), 8) == 0.0


def test_a_token_unseen_in_training_has_a_finite_unigram_cost():
    assert unigram_bits(torch.zeros(10, dtype=torch.int64), torch.tensor([1]), 2) == pytest.approx(
        3.585, abs=1e-3
    )


def test_the_unigram_cost_agrees_with_the_frequencies():
    train, held_out = stripes(50, 0), stripes(20, 1)
    wanted = -float(frequencies(train, CODES).log2()[held_out.flatten()].mean())
    assert unigram_bits(train, held_out, CODES) == pytest.approx(wanted)


def test_a_budget_of_no_steps_is_refused():
    with pytest.raises(ValueError, match="0 steps trains nothing: give at least 1"):
        Budget(steps=0)


def test_a_budget_names_its_limits():
    assert str(Budget(120.0)) == "120 s" and str(Budget(1.5, 20)) == "1.5 s or 20 steps"


def test_a_budget_without_limits_is_refused():
    with pytest.raises(ValueError, match="seconds or steps"):
        Budget()
