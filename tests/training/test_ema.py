"""The moving average of weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.training.parts import differing, make_tokenizer, weights
from vistok.errors import RecipeError
from vistok.training import EMA


def test_the_average_follows_the_closed_form():
    source = nn.Linear(1, 1, bias=False)
    source.weight.data.fill_(0.0)
    ema = EMA(source, decay=0.5)
    expected = 0.0
    for step, value in enumerate((1.0, 2.0, 5.0, 4.0)):
        source.weight.data.fill_(value)
        ema.update(source, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert float(ema.average.weight) == pytest.approx(expected)


def test_buffers_and_frozen_weights_are_copied():
    source = nn.BatchNorm1d(2)
    source.weight.requires_grad_(False)
    ema = EMA(source, decay=0.9)
    source.weight.data.fill_(3.0)
    source.running_mean.fill_(7.0)
    ema.update(source, 1000)
    assert ema.average.weight.tolist() == [3.0, 3.0] and ema.average.running_mean.tolist() == [7.0, 7.0]


def test_the_average_is_a_copy_in_eval_mode_without_gradients():
    tokenizer = make_tokenizer()
    ema = EMA(tokenizer, decay=0.9).train()
    assert not ema.average.training and not any(p.requires_grad for p in ema.parameters())
    assert not differing(weights(tokenizer), weights(ema.average))
    with torch.no_grad():
        next(tokenizer.parameters()).add_(1.0)
    assert differing(weights(tokenizer), weights(ema.average))


def test_a_decay_of_one_is_refused():
    with pytest.raises(RecipeError, match="ema_decay"):
        EMA(nn.Linear(1, 1), decay=1.0)
