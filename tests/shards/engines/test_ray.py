"""On a real Ray cluster of this machine; one for all tests of this file, since it takes seconds to start."""

import os
import re
import signal
import time
import types
from pathlib import Path

import pytest

from tests.shards.conftest import ended, forked, named, tree
from vistok import shards
from vistok.data import Procedural
from vistok.errors import ShardError

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a cluster of this machine needs no token
ray = pytest.importorskip("ray")

from vistok.shards.engines.ray import RayEngine, _fitting  # noqa: E402

OPTIONS = {"batch_size": 2, "shard_size": 5, "progress": False}


@pytest.fixture(scope="module")
def cluster():
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
             object_store_memory=80_000_000)  # fmt: skip
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def visible(out):
    return {name: data for name, data in tree(out).items() if not name.startswith(".")}


def actor_pids():
    """Processes of our actors that are children of this test's cluster."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text()
        except OSError:
            continue
        if command.startswith("ray::ShardActor") and descends_from_us(int(folder.name)):
            found.append(int(folder.name))
    return found


def descends_from_us(pid):
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            pid = int(re.search(r"PPid:\t(\d+)", Path(f"/proc/{pid}/status").read_text()).group(1))
        except OSError:
            return False
    return False


# before the cluster of the others: a forked process cannot use a connection that it inherits
@pytest.mark.slow
def test_a_cluster_is_started_for_the_run_and_ctrl_c_ends_it_cleanly(tokenizer, tmp_path):
    out, said = tmp_path / "out", tmp_path / "said"

    def work():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            shards.encode(tokenizer, Procedural(4000, 16), out, engine=RayEngine(num_actors=1), **OPTIONS)
        except shards.EncodingInterrupted as stop:
            said.write_text(str(stop))

    pid = forked(work)
    for _ in range(3000):
        if (out / "shard-000001.json").exists():
            break
        time.sleep(0.1)
    os.kill(pid, signal.SIGINT)
    assert ended(pid) == 0
    assert "run the same again to go on" in said.read_text()
    assert not list(out.glob(".vistok-temp-*"))


def test_actors_make_the_same_bytes_and_one_that_dies_is_replaced(cluster, tokenizer, tmp_path):
    images = Procedural(43, 16)
    shards.encode(tokenizer, images, tmp_path / "local", **OPTIONS)
    whole = visible(tmp_path / "local")
    out, killed = tmp_path / "out", []

    class Killing(RayEngine):
        """Kills one actor when the first shard is there."""

        def run(self, job, todo, bar):
            advance = bar.advance

            def watched(images, tokens=0):
                advance(images, tokens)
                if not killed and (pids := actor_pids()):
                    killed.append(pids[0])
                    os.kill(pids[0], signal.SIGKILL)

            bar.advance = watched
            return super().run(job, todo, bar)

    summary = shards.encode(tokenizer, images, out, engine=Killing(num_actors=2), **OPTIONS)
    assert killed and summary.num_shards_new == 9
    assert visible(out) == whole
    assert shards.verify(out).ok
    assert not list(out.glob(".vistok-temp-*")) and not list(out.glob(".vistok-lock-actors*"))
    # and what is there is not made again
    assert shards.encode(tokenizer, images, out, engine=RayEngine(), **OPTIONS).num_shards_new == 0


@pytest.mark.parametrize("num_actors", [4, None])
def test_a_cluster_without_room_for_all_actors_goes_on_with_those_that_started(
    cluster, tokenizer, tmp_path, monkeypatch, num_actors
):
    # paths may be relative, and the machines of a cluster work elsewhere
    monkeypatch.chdir(tmp_path)
    pixels(tmp_path / "images", 12)
    from vistok.data import ImageFolder

    summary = shards.encode(
        tokenizer,
        ImageFolder(Path("images")),
        Path("out"),
        engine=RayEngine(num_actors=num_actors),
        batch_size=2,
        shard_size=1,
        progress=False,
    )
    assert summary.num_shards_new == 12


def test_actors_that_the_cluster_can_never_hold_are_refused_at_once(cluster, tokenizer, tmp_path):
    start = time.monotonic()
    with pytest.raises(ShardError, match=r"1 CPU and 1 GPU that an actor needs.*lower gpus_per_actor"):
        shards.encode(tokenizer, named(4), tmp_path / "out", engine=RayEngine(gpus_per_actor=1), **OPTIONS)
    assert time.monotonic() - start < 30


def test_as_many_actors_as_the_cluster_has_room_for(cluster):
    machines = [
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}},
        {"Alive": True, "Resources": {"CPU": 3.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    fake = types.SimpleNamespace(nodes=lambda: machines)
    assert _fitting(fake, 0.0, None) == 11
    assert _fitting(fake, 0.5, None) == 4
    assert _fitting(fake, 0.5, 6) == 6
    with pytest.raises(ShardError, match="at most 2 GPU"):
        _fitting(fake, 4.0, 1)


def pixels(folder, count):
    folder.mkdir()
    for index in range(count):
        Procedural(count, 16).read(index).save(folder / f"{index}.png")


@pytest.mark.slow
def test_an_image_that_cannot_be_encoded_is_told_as_by_the_local_engine(cluster, tokenizer, tmp_path):
    (tmp_path / "images").mkdir()
    for index in range(3):
        Procedural(3, 16).read(index).save(tmp_path / "images" / f"{index}.png")
    (tmp_path / "images" / "3.png").write_bytes(b"no image")
    from vistok.data import ImageFolder

    images = ImageFolder(tmp_path / "images")
    with pytest.raises(ShardError, match=r"image '3\.png' cannot be encoded"):
        shards.encode(tokenizer, images, tmp_path / "out", engine=RayEngine(), **OPTIONS)
    with pytest.raises(ShardError, match=r"1 of 4 images cannot be encoded, more than max_error_rate"):
        shards.encode(tokenizer, images, tmp_path / "out2", engine=RayEngine(), on_error="skip", **OPTIONS)
    summary = shards.encode(
        tokenizer,
        images,
        tmp_path / "out3",
        engine=RayEngine(),
        on_error="skip",
        max_error_rate=0.5,
        **OPTIONS,
    )
    assert summary.num_skipped == 1


@pytest.mark.slow
def test_actors_that_die_again_and_again_end_the_run(cluster, tokenizer, tmp_path):
    images = Deadly(["a", "b"])
    with pytest.raises(ShardError, match="3 actors died one after the other"):
        shards.encode(tokenizer, images, tmp_path / "out", engine=RayEngine(), **OPTIONS)


class Deadly(Procedural):
    """Ends the process of an actor that reads it; the driver may."""

    def __init__(self, keys):
        super().__init__(2, 16)
        self._driver = os.getpid()

    def read(self, index):
        if os.getpid() != self._driver:
            os._exit(1)
        return super().read(index)


def test_ray_that_is_not_installed_is_told_with_the_remedy(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ShardError, match=r"pip install 'vistok\[ray\]'"):
        shards.encode(tokenizer, named(2), tmp_path / "out", engine=RayEngine(), **OPTIONS)
