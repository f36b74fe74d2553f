"""Recipes as data: merging, and settings by class."""

from __future__ import annotations

import pytest

from vistok.errors import RecipeError
from vistok.training.recipe import merge, read_recipe, set_by_class


def test_later_recipes_change_what_earlier_ones_say(tmp_path):
    (tmp_path / "a.yaml").write_text("trainer: {max_steps: 5, precision: 32-true}\ndata: {size: 64}\n")
    (tmp_path / "b.yaml").write_text("trainer: {max_steps: 9}\n")
    merged = read_recipe([str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")])
    assert merged == {"trainer": {"max_steps": 9, "precision": "32-true"}, "data": {"size": 64}}


def test_another_class_discards_the_arguments_of_the_old_one():
    old = {"q": {"class_path": "a.VQ", "init_args": {"codebook_size": 4}}}
    assert merge(old, {"q": {"class_path": "a.FSQ"}}) == {"q": {"class_path": "a.FSQ"}}
    assert merge(old, {"q": {"init_args": {"dim": 2}}})["q"]["init_args"] == {"codebook_size": 4, "dim": 2}


def test_settings_by_class_reach_every_part_of_it_and_no_other():
    tree = {
        "parts": [
            {"class_path": "a.VQ", "init_args": {"dim": 2}},
            {"class_path": "b.VQ"},
            {"class_path": "a.MyVQ"},
        ]
    }
    first, second, other = set_by_class(tree, {"VQ": {"dim": 8}})["parts"]
    assert first["init_args"] == second["init_args"] == {"dim": 8} and "init_args" not in other


def test_a_recipe_says_what_the_tiny_overlay_replaces_of_it(tmp_path):
    big = "a: {class_path: m.Big, init_args: {n: 9}}"
    (tmp_path / "big.yaml").write_text(f"{big}\ntiny: {{a: {{class_path: m.Small}}, b: 1}}\n")
    (tmp_path / "tiny.yaml").write_text("b: 2\nby_class: {Small: {n: 1}}\n")
    paths = [str(tmp_path / "big.yaml"), str(tmp_path / "tiny.yaml")]
    assert read_recipe(paths[:1]) == {"a": {"class_path": "m.Big", "init_args": {"n": 9}}}
    # what the overlay itself says comes last, and its settings by class reach the replaced parts
    assert read_recipe(paths) == {"a": {"class_path": "m.Small", "init_args": {"n": 1}}, "b": 2}


def test_numbers_with_an_exponent_are_numbers(tmp_path):
    (tmp_path / "a.yaml").write_text("model: {optimizer: {lr: 1e-4, name: e4, min: -2.5E+3}}\n")
    assert read_recipe([str(tmp_path / "a.yaml")])["model"]["optimizer"] == {
        "lr": 1e-4,
        "name": "e4",
        "min": -2500.0,
    }


@pytest.mark.parametrize(
    ("option", "ours"),
    [
        ("gradient_clip_val: 1.0", "model.optimizer.clip"),
        ("accumulate_grad_batches: 4", "model.accumulate"),
        ("enable_checkpointing: false", "checkpoint.enabled"),
    ],
)
def test_trainer_options_that_would_do_nothing_are_refused(tmp_path, option, ours):
    (tmp_path / "a.yaml").write_text(f"trainer: {{{option}}}\n")
    with pytest.raises(RecipeError, match=ours):
        read_recipe([str(tmp_path / "a.yaml")])


@pytest.mark.parametrize("text", ["[1, 2]", "a: [1", "just words"])
def test_a_file_that_is_no_recipe_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"bad\.yaml") as caught:
        read_recipe([str(tmp_path / "bad.yaml")])
    assert "\n" not in str(caught.value)
