"""Where a trained tokenizer comes from, as its spec tells it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import vistok
from vistok.training.module import TokenizerModule


def provenance_of_recipe(config: Mapping[str, Any], recipes: Sequence[str]) -> dict[str, Any]:
    """Where a tokenizer comes from: recipes by name, the images, and a hash of what was trained on what.

    ``recipe_hash`` is the first 16 hexadecimal digits of the sha256 over the sections seed_everything, data and model,
    and stage where it does anything, as JSON, options of the command line included.
    """
    used = {name: config.get(name) for name in ("seed_everything", "data", "model")}
    if any((config.get("stage") or {}).values()):
        used["stage"] = config["stage"]
    text = json.dumps(used, sort_keys=True, default=str)
    return {
        "recipes": [Path(name).stem for name in recipes],
        "recipe_hash": hashlib.sha256(text.encode()).hexdigest()[:16],
        "data": used["data"]["train"] if used["data"] else None,
    }


def provenance_of_training(module: TokenizerModule) -> dict[str, Any]:
    """What is known of a training: what its recipe said, steps, seed, and versions of vistok and torch."""
    return {
        **module.provenance,
        "trained_steps": module.step,
        "seed": module.seed,
        "vistok": vistok.__version__,
        "torch": str(torch.__version__),
    }
