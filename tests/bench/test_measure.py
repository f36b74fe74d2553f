import pytest
import torch

from vistok.bench import measure


@pytest.mark.parametrize("ballast", [False, True])
def test_the_peak_is_what_was_held_at_once(ballast, monkeypatch):
    if ballast:  # a system whose high-water mark cannot be lowered
        monkeypatch.setattr(measure, "_lower_high_water", lambda: False)

    def work():
        for _ in range(3):
            torch.ones(10 << 20)  # 40 MiB, freed before the next

    work()
    assert 35 << 20 < measure.peak_bytes(work, "cpu") < 60 << 20


def test_a_fresh_process_measures_a_provider():
    question = {"op": "nearest_code", "number": 1, "quick": True, "device": "cpu", "chunk": 256}
    dense = measure.peak_bytes_in_a_fresh_process({**question, "provider": "cdist + argmin"})
    assert 0 <= dense < 64 << 20


def test_a_process_that_fails_tells_its_last_line():
    with pytest.raises(RuntimeError, match="KeyError"):
        measure.peak_bytes_in_a_fresh_process({"op": "nothing", "number": 0, "quick": True})
