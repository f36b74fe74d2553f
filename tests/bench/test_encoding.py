import csv

import pytest

from vistok.bench.encoding import Case, cases, recipe_tokenizer, run
from vistok.errors import RecipeError


def test_every_way_of_encoding_is_measured_and_written(tmp_path):
    told = []
    case = Case("demo", 64, 12, 2, 3, ("float32", "bfloat16"), plain=True)
    rows = run(out=tmp_path, tell=told.append, chosen=[case])
    assert [(row.provider, row.precision) for row in rows] == [
        ("plain loop", "float32"),
        ("vistok", "float32"),
        ("bare model", "float32"),
        ("vistok", "bfloat16"),
        ("bare model", "bfloat16"),
    ]
    assert all(row.images == 12 and row.images_per_second > 0 for row in rows)
    assert all(row.of_plain > 0 for row in rows[1:]) and rows[1].of_bare > 0 and rows[1].outside > 0
    assert "plain loop" in told[0] and "outside model" in told[0]
    with (tmp_path / "encode.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 5


def test_the_cases_are_those_of_the_recipes_at_full_width():
    full = cases(quick=False)
    assert [(case.recipe, case.size, case.num) for case in full] == [
        ("llamagen_vq16", 256, 512),
        ("demo", 64, 20_000),
    ]
    assert all(case.num < other.num for case, other in zip(cases(quick=True), full, strict=True))


def test_a_recipe_that_is_not_there_is_told():
    with pytest.raises(RecipeError, match="no recipe"):
        recipe_tokenizer("nothing")
