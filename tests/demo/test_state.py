import json

import pytest

from vistok.demo.state import State
from vistok.errors import VistokError

SETTINGS = {"seconds": 5.0, "photos": None}


def test_finished_stages_are_known_to_a_later_run(tmp_path):
    first = State.open(tmp_path / "demo", SETTINGS)
    first.spend("train", 2.0)
    first.finish("train", {"steps": 3})
    later = State.open(tmp_path / "demo", SETTINGS)
    assert later.done("train") and not later.done("encode")
    assert later.stages["train"] == {"steps": 3} and later.seconds == {"train": 2.0}


def test_other_settings_are_refused_by_name(tmp_path):
    State.open(tmp_path, SETTINGS)
    with pytest.raises(VistokError, match=r"seconds=5\.0, not 6\.0: give another --out"):
        State.open(tmp_path, {**SETTINGS, "seconds": 6.0})


def test_a_directory_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(VistokError, match=r"thesis\.tex"):
        State.open(tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(VistokError, match="is a file"):
        State.open(path, SETTINGS)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1, "settings": 1, "stages": {}, "seconds": {}}', '{"format"']
)
def test_a_damaged_state_is_one_line_with_a_remedy(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(VistokError, match="--out") as error:
        State.open(tmp_path, SETTINGS)
    assert "\n" not in str(error.value)


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VistokError, match="cannot be written"):
        State.open(tmp_path / "file" / "demo", SETTINGS)


def test_the_file_is_replaced_whole(tmp_path):
    State.open(tmp_path, SETTINGS).finish("train", {})
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
    assert json.loads((tmp_path / "state.json").read_text())["stages"] == {"train": {}}
