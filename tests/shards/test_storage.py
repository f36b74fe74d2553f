"""Disks that are full, read-only or odd: told in one line, and nothing short is ever committed."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.shards.conftest import named, tree
from vistok import shards
from vistok.errors import ShardError
from vistok.shards.commit import HashedFile, replacing

OPTIONS = {"batch_size": 2, "shard_size": 4, "progress": False}

# run in a mount namespace of its own, where a small file system can be mounted
PROGRAM = """
import sys
from pathlib import Path
from tests.shards.conftest import build_tokenizer, named, tree
from vistok import shards
from vistok.errors import ShardError
out, whole = Path(sys.argv[1]), Path(sys.argv[2])
tokenizer = build_tokenizer()
options = {"batch_size": 2, "shard_size": 4, "progress": False, "workers": int(sys.argv[3])}
try:
    shards.encode(tokenizer, named(40), out, **options)
    print("it fitted")
except ShardError as error:
    print(f"ShardError: {error}")
committed = {p.name: p.read_bytes() for p in sorted(out.glob("shard-*"))}
print("committed", sum(name.endswith(".json") for name in committed))
for name, data in committed.items():
    if name.endswith(".json") or Path(out / name).with_suffix(".json").exists():
        assert data == (whole / name).read_bytes(), name
print("debris", len(list(out.glob(".vistok-temp-*"))))
"""


def in_mount_namespace(script, *arguments):
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare here")
    allowed = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    if allowed.returncode:
        pytest.skip("mount namespaces are not permitted here")
    command = ["unshare", "-rm", "bash", "-c", script, "bash", *map(str, arguments)]
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "kernels")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    if "mount" in done.stderr and done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    return done


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_disk_that_is_really_full_is_told_and_mended_by_more_room(tokenizer, tmp_path, workers):
    whole, disk = tmp_path / "whole", tmp_path / "disk"
    disk.mkdir()
    shards.encode(tokenizer, named(40), whole, **OPTIONS)
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    run = f"{sys.executable} {program} {disk}/out {whole} {workers}"
    script = f"""
    set -e
    mount -t tmpfs -o size=64k tmpfs {disk}
    {run}
    mount -o remount,size=10m {disk}
    {run}
    rm -f {disk}/out/.vistok-lock
    (cd {disk}/out && find . -type f ! -name made-with.jsonl ! -name '.*' | sort | xargs sha256sum | sha256sum)
    (cd {whole} && find . -type f ! -name made-with.jsonl ! -name '.*' | sort | xargs sha256sum | sha256sum)
    """
    done = in_mount_namespace(script)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert (
        lines[0].startswith("ShardError") and "No space left on device; finished shards are kept" in lines[0]
    )
    assert 0 < int(lines[1].split()[1]) < 10
    assert lines[2] == "debris 0"
    assert lines[3:6] == ["it fitted", "committed 10", "debris 0"]
    assert lines[6] == lines[7]


def test_a_disk_that_is_read_only_is_told(tmp_path):
    disk = tmp_path / "disk"
    (disk / "out").mkdir(parents=True)
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    script = f"mount -t tmpfs -o size=1m,ro tmpfs {disk} && {sys.executable} {program} {disk}/out {disk} 0"
    done = in_mount_namespace(script)
    assert "ShardError" in done.stdout, done.stderr
    assert "Read-only file system" in done.stdout.splitlines()[0]


def test_a_device_that_is_always_full_raises_and_leaves_nothing(tmp_path):
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        file = HashedFile(fd)
        file.write(b"x" * 100)
        with pytest.raises(OSError, match="No space left"):
            file.flush()
    finally:
        os.close(fd)


def test_a_file_that_two_processes_write_is_one_of_the_two(tmp_path):
    path = tmp_path / "file"
    with replacing(path) as first:
        first.write(b"first")
        with replacing(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["a parent that is a file", "a link to a file", "a link that leads nowhere"])
def test_places_that_cannot_be_a_directory_are_told_in_one_line(tokenizer, tmp_path, kind):
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "out"
    if kind == "a parent that is a file":
        out = tmp_path / "file" / "out"
    else:
        out.symlink_to(tmp_path / ("file" if kind == "a link to a file" else "nowhere"))
    with pytest.raises(ShardError) as raised:
        shards.encode(tokenizer, named(2), out, **OPTIONS)
    assert "\n" not in str(raised.value) and str(out) in str(raised.value)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_link_to_a_directory_is_followed(tokenizer, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    shards.encode(tokenizer, named(2), tmp_path / "out", **OPTIONS)
    assert shards.verify(tmp_path / "real").ok
    assert tree(tmp_path / "real")
