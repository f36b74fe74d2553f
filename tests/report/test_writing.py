import pytest

from vistok.errors import VistokError
from vistok.report.writing import write_bytes, write_text


def test_a_file_replaces_the_one_before_and_its_folder_is_made(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_text(path, "ä")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new" and list(path.parent.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VistokError, match=r"cannot be written: .*give another directory with --out"):
        write_text(tmp_path / "file" / "b.txt", "")
