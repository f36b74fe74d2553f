import subprocess
import sys

import pytest

from vistok.freed_memory import _glibc, keeping_freed_memory

# page faults of making and freeing a block of 80 MB over and over
COUNT = """
import resource, numpy
from contextlib import nullcontext
from vistok.freed_memory import keeping_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    before = faults()
    for _ in range(10):
        numpy.empty(20_000_000, numpy.float32).fill(1)
    return faults() - before

work()
outside = work()
with keeping_freed_memory():
    with keeping_freed_memory():
        work()
    inside = work()
work()
print(outside, inside, work())
"""


@pytest.mark.skipif(_glibc() is None, reason="another C library")
def test_freed_memory_is_kept_while_it_lasts_and_not_afterwards():
    run = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    outside, inside, afterwards = map(int, run.stdout.split())
    assert inside < outside / 10 < afterwards


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert _glibc() is None
    with keeping_freed_memory():
        pass
