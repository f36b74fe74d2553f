"""Every recipe is real: it builds at full size, and trains at tiny size through the command line's own path."""

from __future__ import annotations

import importlib
from math import isfinite
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml

from vistok import load
from vistok.data import Procedural
from vistok.recipes import find_recipe, recipe_names
from vistok.tokenizer import Tokenizer
from vistok.training import build
from vistok.training.recipe import read_recipe

RECIPES = [name for name in recipe_names() if name != "tiny"]
STEPS = 24


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


class Losses(pl.Callback):
    """What each training step reported."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        found = trainer.callback_metrics.items()
        self.steps.append({key[5:]: float(value) for key, value in found if key.startswith("loss/")})

    def mean(self, terms: dict[str, float], steps: slice) -> float:
        """The weighted sum of some terms, averaged over some steps."""
        chosen = self.steps[steps]
        return sum(weight * step[term] for step in chosen for term, weight in terms.items()) / len(chosen)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_at_tiny_size_and_leaves_a_tokenizer(tmp_path, captioned, name):
    """Every loss is finite; what measures pictures falls, or features where there are none; the tokenizer works when loaded."""
    settings = {
        "trainer.default_root_dir": tmp_path,
        "trainer.max_steps": STEPS,
        "data.batch_size": 4,
        "model.optimizer.lr": 1e-3,
        "model.optimizer.warmup_steps": 1,  # recipes warm up for longer than this trains
    }
    options = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    if "contrastive" in read_recipe([name])["model"]["losses"]["init_args"]["weights"]:
        options += ["--data.train", captioned, "--data.val", captioned]
    cli, steps = build("fit", [name, "tiny"], options), Losses()
    cli.trainer.callbacks.append(steps)
    cli.run()
    metrics = cli.trainer.callback_metrics
    losses = {key: float(value) for key, value in metrics.items() if key.startswith(("loss/", "val/"))}
    weights = {term: weight for term, weight in cli.model.losses.weights.items() if weight}
    wanted = {f"loss/{term}" for term in weights}
    if cli.model.adversarial is not None:
        wanted |= {"loss/adversarial", "loss/discriminator"}
    if cli.model.tokenizer.decoder is not None:
        wanted.add("val/psnr")
    assert wanted <= losses.keys()
    assert all(isfinite(value) for step in [losses, *steps.steps] for value in step.values()), losses
    measured = {term: weight for term, weight in weights.items() if term in ("l1", "l2", "perceptual")}
    measured = measured or {term: weights[term] for term in ("semantic", "flow", "code") if term in weights}
    assert steps.mean(measured, slice(-4, None)) < steps.mean(measured, slice(4))
    check_that_it_works(load(tmp_path / "tokenizer"), name)


def check_that_it_works(tokenizer: Tokenizer, name: str) -> None:
    """What a loaded tokenizer says of itself is what it gives."""
    spec, images = tokenizer.spec, torch.rand(2, 3, 64, 64) * 2 - 1
    assert spec.name == name and spec.provenance["trained_steps"] == STEPS
    with torch.inference_mode():
        encoded = tokenizer.encode(images)
        assert [*encoded] == [stream.name for stream in spec.streams]
        for stream in spec.streams:
            values = encoded[stream.name].values
            assert len(values) == 2 and values.isfinite().all()
            if stream.codebook_size is not None:
                assert not values.is_floating_point()
                assert values.min() >= 0 and values.max() < stream.codebook_size
        assert tokenizer.decoder is not None or tokenizer.feature_head is not None
        if tokenizer.decoder is not None:
            pictures = tokenizer.decode(encoded)
            assert pictures.shape == images.shape and pictures.isfinite().all()
        if tokenizer.feature_head is not None:
            assert tokenizer.semantic(images).isfinite().all()


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
