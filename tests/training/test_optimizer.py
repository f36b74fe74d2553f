"""Learning rates, weight decay and clipping."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vistok.errors import RecipeError
from vistok.training.optimizer import OptimizerSettings, total_norm


def test_the_rate_rises_linearly_then_falls_as_half_a_cosine():
    settings = OptimizerSettings(lr=1.0, warmup_steps=4, cosine_steps=12, min_lr=0.1)
    assert [settings.lr_at(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert settings.lr_at(4) == pytest.approx(1.0)
    assert settings.lr_at(8) == pytest.approx(0.55)
    assert settings.lr_at(12) == pytest.approx(0.1)
    assert settings.lr_at(500) == pytest.approx(0.1)


def test_without_a_cosine_the_rate_stays():
    settings = OptimizerSettings(lr=0.5, warmup_steps=2)
    assert [settings.lr_at(step) for step in (0, 1, 2, 10**6)] == [0.25, 0.5, 0.5, 0.5]


def test_norms_biases_and_codebooks_do_not_decay():
    module = nn.ModuleDict({"linear": nn.Linear(3, 2), "norm": nn.LayerNorm(2)})
    module.register_parameter("codebook", nn.Parameter(torch.zeros(4, 2)))
    decayed, kept = OptimizerSettings(weight_decay=0.1).build(module).param_groups
    assert decayed["weight_decay"] == 0.1 and [p.shape for p in decayed["params"]] == [(2, 3)]
    assert kept["weight_decay"] == 0.0 and len(kept["params"]) == 4


def test_frozen_weights_are_left_out_and_all_frozen_is_refused():
    module = nn.Linear(3, 2)
    module.bias.requires_grad_(False)
    assert len(OptimizerSettings().build(module).param_groups) == 1
    with pytest.raises(RecipeError, match="no weights to train"):
        OptimizerSettings().build(module.requires_grad_(False))


def test_clipping_scales_to_the_norm_and_reports_the_norm_before():
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    optimizer = torch.optim.SGD([weight], lr=1.0)
    assert float(OptimizerSettings(clip=1.0).clip_gradients(optimizer)) == pytest.approx(5.0)
    torch.testing.assert_close(weight.grad, torch.tensor([0.6, 0.8]))
    assert float(OptimizerSettings(clip=0).clip_gradients(optimizer)) == pytest.approx(1.0)
    torch.testing.assert_close(weight.grad, torch.tensor([0.6, 0.8]))
    assert float(total_norm([])) == 0


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"lr": 0.0}, "lr"),
        ({"lr": float("inf")}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"min_lr": 1.0}, "min_lr"),
        ({"min_lr": float("nan")}, "min_lr"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"betas": (-0.1, 0.9)}, "betas"),
        ({"betas": (float("nan"), 0.9)}, "betas"),
        ({"betas": (0.9,)}, "betas"),
        ({"weight_decay": float("inf")}, "weight_decay"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"clip": -1.0}, "clip"),
        ({"clip": float("nan")}, "clip"),
        ({"warmup_steps": 10, "cosine_steps": 10}, "cosine_steps"),
    ],
)
def test_values_out_of_their_range_are_refused_by_name(options, field):
    with pytest.raises(RecipeError, match=f"^{field}[ =]"):
        OptimizerSettings(**options)
