"""Every test that the README's errata name exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
_, _, SECTION = README.partition("## Errata of the field that vistok's tests exclude")
ROWS = re.findall(r"^\| (.+?) \| `(.+?)::(.+?)` \|$", SECTION.partition("\n## ")[0], flags=re.M)


@pytest.mark.parametrize(("behaviour", "path", "test"), ROWS)
def test_the_test_that_excludes_it_exists(behaviour, path, test):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_no_row_is_without_a_test():
    lines = [line for line in SECTION.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    assert len(ROWS) == len(lines) - 1 >= 15
    assert len({test for _, _, test in ROWS}) == len(ROWS)
