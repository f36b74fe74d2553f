"""The README's table of systems: each recipe's tokenizer is one that its layout takes."""

import re
from pathlib import Path

import pytest

from vistok.layouts import fitting, names
from vistok.training.run import build

README = Path(__file__).parents[2] / "README.md"
ROWS = re.findall(r"^\| [^|]+ \| `(\w+)`([^|]*)\| `(\w+)` \|$", README.read_text(), flags=re.M)
# the row of LaVIT puts an encoder before the recipe's, whose lengths vary
PAIRS = sorted({(recipe, layout) for recipe, further, layout in ROWS if "SelectingEncoder" not in further})


def test_the_table_tells_of_every_layout():
    assert {layout for _, _, layout in ROWS} == set(names())


@pytest.mark.parametrize(("recipe", "layout"), PAIRS)
def test_a_layout_takes_what_its_recipe_makes(recipe, layout, tmp_path):
    built = build("fit", [f"recipes/{recipe}.yaml", "tiny"], ["--trainer.default_root_dir", str(tmp_path)])
    assert layout in fitting(built.model.tokenizer.spec)
