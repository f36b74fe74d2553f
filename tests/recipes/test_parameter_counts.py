"""Networks of recipes have as many weights as the libraries that have them too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.recipes.test_recipes import instantiate
from vistok.training.recipe import read_recipe

timm = pytest.importorskip("timm")


def part(recipe: str, role: str) -> nn.Module:
    """A part of a recipe's tokenizer at full size, without memory."""
    node: Any = read_recipe([recipe])["model"]["tokenizer"]["init_args"][role]
    built = instantiate(node)
    assert isinstance(built, nn.Module)
    return built


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("recipe", "name"),
    [("unitok", "vitamin_large_256"), ("qlip_b16", "vit_base_patch16_siglip_gap_256")],
)
def test_encoders_have_as_many_weights_as_in_timm(recipe: str, name: str) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=0)
    assert num_parameters(part(recipe, "encoder")) == pytest.approx(num_parameters(theirs), rel=0.01)


@pytest.mark.parametrize(("recipe", "role"), [("bsq_vit_18", "encoder"), ("bsq_vit_18", "decoder")])
def test_transformers_of_bsq_vit_have_as_many_weights_as_a_vit_b(recipe: str, role: str) -> None:
    with torch.device("meta"):
        theirs = timm.create_model("vit_base_patch8_224", num_classes=0)
    assert num_parameters(part(recipe, role)) == pytest.approx(num_parameters(theirs), rel=0.01)
