import pytest
import torch

from vistok.demo.downstream import Budget, entropy_bits, fit, frequencies, loss_bits, unigram_bits
from vistok.demo.transformer import TokenTransformer

CODES = 12


def stripes(count: int, seed: int) -> torch.Tensor:
    """4 x 4 grids whose rows repeat one random row: the first row is free, the rest is certain."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(CODES, (count, 1, 4), generator=generator).expand(count, 4, 4).reshape(count, 16)


def small_model(train: torch.Tensor, dropout: float = 0.0) -> TokenTransformer:
    torch.manual_seed(0)
    vectors = torch.randn(CODES, 6)
    return TokenTransformer(
        vectors, frequencies(train, CODES), (4, 4), width=32, depth=2, num_heads=2, dropout=dropout
    )


def test_training_starts_at_the_unigram_loss():
    train, held_out = stripes(128, 0), stripes(32, 1)
    start = loss_bits(small_model(train), held_out)
    assert start == pytest.approx(unigram_bits(train, held_out, CODES), abs=0.1)


def test_a_structured_sequence_is_learned_below_its_unigram_loss():
    train, held_out = stripes(256, 0), stripes(64, 1)
    points = fit(small_model(train), train, held_out, Budget(steps=150))
    assert points[0].step == 0 and points[-1].step == 150
    assert points[-1].held_out_bits < unigram_bits(train, held_out, CODES) - 1.0


def test_training_ends_at_its_time_limit():
    train = stripes(64, 0)
    points = fit(small_model(train), train, train, Budget(seconds=0.0, steps=1000))
    assert points[-1].step == 1


def test_a_prediction_sees_no_token_that_comes_later():
    train = stripes(8, 0)
    model = small_model(train).eval()
    tokens = train[:1, :-1].clone()
    changed = tokens.clone()
    changed[0, 7] = (changed[0, 7] + 1) % CODES
    before, after = model(tokens), model(changed)
    assert torch.allclose(before[:, :8], after[:, :8], atol=1e-6)
    assert not torch.allclose(before[:, 8:], after[:, 8:], atol=1e-4)


def test_samples_are_token_grids_that_depend_on_the_seed_only():
    model = small_model(stripes(8, 0), dropout=0.5)
    first, again = model.sample(3, top_k=4, seed=5), model.sample(3, top_k=4, seed=5)
    assert first.shape == (3, 16) and first.dtype == torch.int64
    assert torch.equal(first, again)
    assert not torch.equal(first, model.sample(3, top_k=4, seed=6))
    assert int(first.min()) >= 0 and int(first.max()) < CODES


def test_top_k_of_one_draws_the_most_likely_token():
    model = small_model(stripes(8, 0)).eval()
    first = model(torch.zeros(1, 0, dtype=torch.int64))[0, -1].argmax()
    assert int(model.sample(1, top_k=1)[0, 0]) == int(first)


def test_the_unigram_cost_of_uniform_tokens_is_the_logarithm_of_the_codebook_size():
    tokens = torch.arange(8).repeat(1000)
    assert unigram_bits(tokens, tokens, 8) == pytest.approx(3.0)
    assert entropy_bits(tokens, 8) == pytest.approx(3.0)
    assert entropy_bits(torch.zeros(5, dtype=torch.int64), 8) == 0.0


def test_a_token_unseen_in_training_has_a_finite_unigram_cost():
    assert unigram_bits(torch.zeros(10, dtype=torch.int64), torch.tensor([1]), 2) == pytest.approx(
        3.585, abs=1e-3
    )


def test_a_budget_without_limits_is_refused():
    with pytest.raises(ValueError, match="seconds or steps"):
        Budget()
