"""Every recipe is real: it builds at full size, and trains at tiny size through the command line's own path."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
import yaml

from vistok import load
from vistok.data import Procedural
from vistok.recipes import find_recipe, recipe_names
from vistok.training import build
from vistok.training.recipe import read_recipe

RECIPES = [name for name in recipe_names() if name != "tiny"]


def test_there_are_recipes():
    assert {"vqgan_f16", "llamagen_vq16", "fsq_f16", "semantic_vq", "kl_f8", "demo"} <= {*RECIPES}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_tells_where_it_is_from(name):
    header = [line for line in find_recipe(name).read_text().splitlines() if line.startswith("#")]
    for word in ("arXiv:", "Changed:", "Hardware:", "Expected:"):
        assert any(word in line for line in header), word


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_builds_at_full_size(name):
    """All but the perceptual network, whose weights not every machine has, is built as written, without memory."""
    config = read_recipe([name])
    tokenizer = config["model"]["tokenizer"]
    assert tokenizer["init_args"]["name"] == name
    without_weights = set_everywhere(tokenizer, "weights", None)
    built = instantiate(without_weights)
    assert all(parameter.is_meta for parameter in built.parameters())
    assert config["data"]["size"] % built.multiple_of == 0
    assert built.image_policy.size in (None, (config["data"]["size"], config["data"]["size"]))


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """A folder of pictures with a caption beside each, which contrastive losses read."""
    folder = tmp_path_factory.mktemp("captioned")
    pictures = Procedural(4, 64)
    for number, key in enumerate(pictures.keys()):
        pictures.read(number).save(folder / f"{key}.png")
        (folder / f"{key}.txt").write_text(f"picture number {number}")
    return str(folder)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_at_tiny_size_and_leaves_a_tokenizer(tmp_path, captioned, name):
    places = ["--trainer.default_root_dir", str(tmp_path)]
    if "contrastive" in read_recipe([name])["model"]["losses"]["init_args"]["weights"]:
        places += ["--data.train", captioned, "--data.val", captioned]
    cli = build("fit", [name, "tiny"], [*places, "--trainer.max_steps", "3"])
    cli.run()
    metrics = cli.trainer.callback_metrics
    losses = {key: float(value) for key, value in metrics.items() if key.startswith(("loss/", "val/"))}
    wanted = {f"loss/{term}" for term, weight in cli.model.losses.weights.items() if weight}
    if cli.model.adversarial is not None:
        wanted |= {"loss/adversarial", "loss/discriminator"}
    if cli.model.tokenizer.decoder is not None:
        wanted.add("val/psnr")
    assert wanted <= losses.keys()
    assert all(torch.isfinite(torch.tensor(value)) for value in losses.values()), losses
    tokenizer = load(tmp_path / "tokenizer")
    assert tokenizer.spec.name == name and tokenizer.spec.provenance["trained_steps"] == 3


def test_the_overlay_changes_nothing_but_sizes_and_places():
    tiny = yaml.safe_load(find_recipe("tiny").read_text())
    assert {*tiny} == {"trainer", "data", "usage", "by_class"}


def set_everywhere(node: Any, key: str, value: Any) -> Any:
    if isinstance(node, list):
        return [set_everywhere(item, key, value) for item in node]
    if isinstance(node, dict):
        return {k: value if k == key else set_everywhere(v, key, value) for k, v in node.items()}
    return node


def instantiate(node: Any) -> Any:
    """Builds ``class_path`` and ``init_args`` on the meta device, in lists too."""
    if isinstance(node, list):
        return [instantiate(value) for value in node]
    if not isinstance(node, dict) or "class_path" not in node:
        return node
    arguments = {key: instantiate(value) for key, value in node.get("init_args", {}).items()}
    module, _, name = node["class_path"].rpartition(".")
    with torch.device("meta"):
        return getattr(importlib.import_module(module), name)(**arguments)
