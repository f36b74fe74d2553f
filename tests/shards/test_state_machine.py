"""Whatever happens to a directory, in whatever order: encoding and repairing end with the same tree."""

import functools
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.shards.conftest import build_tokenizer, ended, forked, named, tree
from tests.shards.test_crashes import watched
from vistok import shards
from vistok.shards import Slice

OPTIONS = {"batch_size": 2, "shard_size": 4, "progress": False}
COUNT = 13


@functools.cache
def tokenizer():
    return build_tokenizer()


@functools.cache
def whole():
    with tempfile.TemporaryDirectory() as folder:
        shards.encode(tokenizer(), named(COUNT), Path(folder) / "out", **OPTIONS)
        return visible(Path(folder) / "out")


def visible(out):
    return {name: data for name, data in tree(out).items() if not name.startswith(".")}


class Encoding(RuleBasedStateMachine):
    """A directory to which runs, deaths and damage come as they like."""

    @initialize()
    def start(self):
        self.folder = Path(tempfile.mkdtemp(prefix="vistok-machine-"))
        self.out, self.damaged = self.folder / "out", False

    def teardown(self):
        try:
            if hasattr(self, "out"):
                self.finish()
        finally:
            shutil.rmtree(getattr(self, "folder", ""), ignore_errors=True)

    def finish(self):
        """The end of every story."""
        if self.damaged and self.described():
            shards.repair(tokenizer(), named(COUNT), self.out, progress=False)
        shards.encode(tokenizer(), named(COUNT), self.out, **OPTIONS)
        assert visible(self.out) == whole()
        assert shards.verify(self.out).ok
        self.damaged = False

    def described(self):
        return (self.out / "fingerprint.json").exists() and any(self.out.glob("shard-*"))

    @rule(k=st.integers(1, 60), workers=st.sampled_from([0, 0, 1]))
    def dies_at_the_kth_call(self, k, workers):
        def work():
            def die(count, name, args):
                if count == k:
                    os._exit(9)

            with watched(die):
                shards.encode(tokenizer(), named(COUNT), self.out, workers=workers, **OPTIONS)

        assert ended(forked(work)) in (0, 1, 9)

    @rule(index=st.integers(0, 1))
    def a_job_of_two(self, index):
        if not self.damaged:
            shards.encode(tokenizer(), named(COUNT), self.out, part=Slice(index, 2), **OPTIONS)

    @precondition(lambda self: self.described())
    @rule(data=st.data())
    def something_is_damaged(self, data):
        path = data.draw(st.sampled_from(sorted(self.out.glob("shard-*"))))
        content = bytearray(path.read_bytes())
        how = data.draw(st.sampled_from(["cut", "flip", "remove", "empty"]))
        if how == "remove":
            path.unlink()
        elif how == "flip" and content:
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
            path.write_bytes(content)
        else:
            path.write_bytes(content[: 0 if how == "empty" else len(content) // 2])
        self.damaged = True

    @precondition(lambda self: self.described())
    @rule()
    def it_is_finished(self):
        self.finish()

    @precondition(lambda self: self.described())
    @rule()
    def it_is_verified(self):
        report = shards.verify(self.out)
        if not self.damaged and report.num_shards == 4 and (self.out / "index.json").exists():
            assert report.ok, report

    @invariant()
    def what_is_committed_and_undamaged_has_its_final_bytes(self):
        if not hasattr(self, "out") or self.damaged or not self.out.is_dir():
            return
        for name, data in visible(self.out).items():
            assert data == whole()[name], name


def machine(examples, steps):
    class Machine(Encoding):
        """As above."""

    Machine.TestCase.settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    return Machine.TestCase


TestAShortStory = machine(4, 6)
TestLongStories = pytest.mark.slow(machine(150, 15))
