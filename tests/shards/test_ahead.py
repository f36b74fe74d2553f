import threading

import pytest

from vistok.shards.ahead import ahead


def test_all_items_come_in_order():
    assert list(ahead(range(100), 3)) == list(range(100))


def test_no_more_than_asked_for_is_fetched_ahead():
    fetched = []
    running = ahead((fetched.append(i) or i for i in range(100)), 2)
    assert next(running) == 0
    for _ in range(100):
        if len(fetched) >= 4:
            break
        threading.Event().wait(0.02)
    threading.Event().wait(0.1)
    assert len(fetched) == 4  # the one given, two that wait, one at the door
    running.close()


def test_an_error_comes_after_the_items_before_it():
    def broken():
        yield 1
        raise ValueError("torn")

    running = ahead(broken(), 5)
    assert next(running) == 1
    with pytest.raises(ValueError, match="torn"):
        next(running)


def test_closing_ends_the_thread():
    before = threading.active_count()
    running = ahead(iter(int, 1), 2)
    next(running)
    running.close()
    assert threading.active_count() == before
