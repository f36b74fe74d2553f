import pytest

from vistok.data import Fields
from vistok.data.fields import integer_or_text, present
from vistok.errors import DataError


def test_names_and_columns_are_read_from_text():
    fields = Fields.parse("image=photo, key=id,caption=alt_text,width")
    assert (fields.image, fields.key) == ("photo", "id")
    assert fields.chosen == {"caption": "alt_text", "width": "width"}
    assert Fields.parse("") == Fields()


@pytest.mark.parametrize("text", [",", "a,", "=a", "a=", "a,a", "a=x,a=y"])
def test_fields_without_a_name_or_named_twice_are_refused(text):
    with pytest.raises(DataError, match=r"empty name|asked for twice"):
        Fields.parse(text)


@pytest.mark.parametrize("name", ["size", "grid", "indices", "std", "lengths", "source", "view"])
def test_names_that_shards_use_themselves_are_refused_with_a_remedy(name):
    with pytest.raises(DataError, match=f"my_{name}={name}"):
        Fields.parse(name)
    assert Fields.parse(f"my_{name}={name}").chosen == {f"my_{name}": name}


def test_label_and_caption_are_found_and_may_be_chosen():
    assert Fields().columns(["image", "cls", "text"]) == {"label": "cls", "caption": "text"}
    assert Fields.parse("caption=alt,topic=text").columns(["alt", "text", "label"]) == {
        "caption": "alt",
        "topic": "text",
        "label": "label",
    }
    assert Fields(image="text").columns(["text"]) == {}


def test_columns_that_are_not_there_are_named_with_those_that_are():
    with pytest.raises(DataError, match=r"'t' has no 'widht' .* there is width, height"):
        Fields.parse("widht").check(["width", "height"], "'t'")


def test_missing_values_are_left_out():
    assert present({"a": None, "b": float("nan"), "c": float("inf"), "d": 0, "e": ""}) == {"d": 0, "e": ""}


@pytest.mark.parametrize(
    ("text", "value"), [("7", 7), ("-1", -1), ("007", 7), ("dog", "dog"), ("1.0", "1.0"), ("²", "²")]
)
def test_labels_of_text_files_are_numbers_if_written_as_integers(text, value):
    assert integer_or_text(text) == value
