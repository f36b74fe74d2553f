"""Recipes as data: files merged in order, with settings that apply wherever a class is used."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vistok.errors import RecipeError
from vistok.recipes import find_recipe

# these act on automatic optimization alone; silence would train something else than the recipe says
_OURS_INSTEAD = {
    "gradient_clip_val": "model.optimizer.clip",
    "gradient_clip_algorithm": "model.optimizer.clip, which clips by norm",
    "accumulate_grad_batches": "model.accumulate",
}
BY_CLASS = "by_class"
TINY = "tiny"


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``1e-4`` as text; here it is a number, as everybody means it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_recipe(names: Sequence[str]) -> dict[str, Any]:
    """Reads recipes and merges them, later ones over earlier ones.

    A recipe may hold ``by_class``: class name -> arguments, which are set on every part of that class in the merged
    recipe, and ignored where there is none. So one overlay such as ``tiny.yaml`` shrinks any recipe. What such arguments
    cannot shrink (a large pretrained network, and the channels that follow from it) a recipe replaces itself: its section
    ``tiny`` is merged where the overlay of that name comes later, and ignored elsewhere.

    Args:
        names: Paths of YAML files, or bare names of vistok's own recipes.

    Raises:
        RecipeError: a file that is missing or is no YAML mapping, or a setting that would silently do nothing.
    """
    merged: dict[str, Any] = {}
    for name in names:
        if Path(name).stem == TINY:
            merged = merge(merged, merged.get(TINY) or {})
        merged = merge(merged, _read(name))
    merged.pop(TINY, None)
    overrides = merged.pop(BY_CLASS, {})
    merged = set_by_class(merged, overrides)
    check_trainer(merged.get("trainer") or {})
    return merged


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merges mappings deeply; another ``class_path`` discards the arguments of the class that it replaces."""
    if "class_path" in above and above["class_path"] != below.get("class_path"):
        return dict(above)
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def set_by_class(node: Any, overrides: Mapping[str, Mapping[str, Any]]) -> Any:
    """Sets arguments on every ``class_path`` of a tree whose last part ``overrides`` names."""
    if isinstance(node, list):
        return [set_by_class(value, overrides) for value in node]
    if not isinstance(node, Mapping):
        return node
    result = {key: set_by_class(value, overrides) for key, value in node.items()}
    chosen = overrides.get(str(result.get("class_path", "")).rpartition(".")[2])
    if chosen:
        result["init_args"] = {**(result.get("init_args") or {}), **chosen}
    return result


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Refuses Trainer options that have no effect here.

    Raises:
        RecipeError: naming the option of ours that has.
    """
    if trainer.get("enable_checkpointing") is False:
        raise RecipeError(
            "trainer.enable_checkpointing: false has no effect here: set checkpoint.enabled: false instead"
        )
    for option, ours in _OURS_INSTEAD.items():
        if trainer.get(option) not in (None, 0, 0.0, *([1] if option == "accumulate_grad_batches" else [])):
            raise RecipeError(f"trainer.{option} does not act on manual optimization: set {ours} instead")


def _read(name: str) -> dict[str, Any]:
    path = find_recipe(name)
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where is not None else ""
        raise RecipeError(
            f"recipe {path}{line} is not YAML: {getattr(error, 'problem', None) or error}"
        ) from error
    if not isinstance(data, dict):
        raise RecipeError(f"recipe {path} holds {type(data).__name__}, not a mapping of settings")
    return data
