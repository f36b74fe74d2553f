import pytest

from vistok.evaluation.progress import counting


def test_the_bar_stays_when_all_is_done(capsys):
    with counting(4, shown=True) as count:
        count(1)
        count(3)
    assert "4/4" in capsys.readouterr().err


def test_a_failure_before_the_first_images_shows_no_bar(capsys):
    with pytest.raises(ValueError, match="bad"), counting(4, shown=True):
        raise ValueError("bad")
    assert capsys.readouterr().err == ""


def test_a_later_failure_wipes_the_bar_away(capsys):
    with pytest.raises(ValueError, match="bad"), counting(4, shown=True) as count:
        count(1)
        raise ValueError("bad")
    told = capsys.readouterr().err
    assert told and "\n" not in told and not told.split("\r")[-2].strip()


def test_nothing_is_shown_if_nothing_is_to_be(capsys):
    with counting(4, shown=False) as count:
        count(4)
    assert capsys.readouterr().err == ""
