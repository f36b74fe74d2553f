"""Where the recipes lie: beside the package in a checkout, under ``share`` in an installed wheel."""

from __future__ import annotations

import sys
from pathlib import Path

from vistok.errors import RecipeError


def recipe_folder() -> Path:
    """The folder that holds ``demo.yaml`` and its like."""
    checkout = Path(__file__).resolve().parent.parent / "recipes"
    return checkout if checkout.is_dir() else Path(sys.prefix) / "share" / "vistok" / "recipes"


def recipe_names() -> list[str]:
    """Names of all recipes, sorted, without the ending."""
    return sorted(path.stem for path in recipe_folder().glob("*.yaml"))


def find_recipe(name: str) -> Path:
    """The file of a recipe, from a path or from a bare name such as ``vqgan_f16``.

    Raises:
        RecipeError: no such file and no such recipe.
    """
    given = Path(name)
    candidates = [given]
    if given.parent.name in ("", "recipes"):
        candidates.append(recipe_folder() / f"{given.stem}.yaml")
    for path in candidates:
        if path.is_file():
            return path
    raise RecipeError(f"no recipe {name!r}: give a YAML file or one of {', '.join(recipe_names())}")
