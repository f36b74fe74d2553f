import contextlib
import io
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from vistok.data import WebDatasetImages, open_images
from vistok.data.pipes import PipedShards
from vistok.errors import DataError


def shard(path, names):
    with tarfile.open(path, "w") as archive:
        for value, name in enumerate(names):
            stream = io.BytesIO()
            Image.new("RGB", (8, 8), (value, 0, 0)).save(stream, "PNG")
            info = tarfile.TarInfo(f"{name}.png")
            info.size = stream.tell()
            archive.addfile(info, io.BytesIO(stream.getvalue()))
    return path


@pytest.fixture
def counted(tmp_path):
    """Three tars, and a command that prints one and notes that it ran."""
    for i in range(3):
        shard(tmp_path / f"{i}.tar", [f"k{i}a", f"k{i}b"])
    return f"pipe:echo run >> {tmp_path}/runs; cat {tmp_path}/{{0..2}}.tar"


def test_commands_run_only_if_they_are_allowed(tmp_path):
    command = f"pipe:touch {tmp_path}/ran; cat x.tar"
    with pytest.raises(DataError, match=r"is a shell command.*--allow-pipes"):
        open_images(command)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(DataError, match=r"ended with status 1: .*x\.tar: No such file"):
        open_images(command, allow_pipes=True)
    assert (tmp_path / "ran").exists()


def test_what_commands_print_is_read_like_files(counted, tmp_path):
    piped = open_images(counted, allow_pipes=True)
    local = WebDatasetImages(str(tmp_path / "{0..2}.tar"))
    assert piped.keys() == local.keys()
    assert all((a["image"] == b["image"]).all() for a, b in zip(piped, local, strict=True))
    assert (tmp_path / "runs").read_text().count("run") == 3


def test_workers_share_what_was_printed(counted, tmp_path):
    piped = pickle.loads(pickle.dumps(dataset := open_images(counted, allow_pipes=True)))
    items = list(DataLoader(piped, batch_size=None, num_workers=2))
    assert [item["key"] for item in items] == dataset.keys()
    assert (tmp_path / "runs").read_text().count("run") == 3
    assert dataset[5]["key"] == "k2b"  # workers that end leave the folder to their parent


def test_room_on_the_disk_is_bounded_and_commands_run_again(counted, tmp_path):
    commands = [f"echo run >> {tmp_path}/runs; cat {tmp_path}/{i}.tar" for i in range(3)]
    size = (tmp_path / "0.tar").stat().st_size
    pipes = PipedShards(commands, max_bytes=2 * size)
    for path in [*pipes.paths, *pipes.paths]:
        with pipes.open(path) as stream:
            assert len(stream.read()) == size
        assert sum(p.stat().st_size for p in pipes.folder.glob("*.tar")) <= 2 * size
        time.sleep(0.01)
    assert (tmp_path / "runs").read_text().count("run") == 6


def test_a_command_that_prints_something_else_the_second_time_is_an_error(tmp_path):
    pipes = PipedShards([f"echo x >> {tmp_path}/n; cat {tmp_path}/n"], max_bytes=0)
    pipes.fetch(pipes.paths[0])
    pipes.paths[0].unlink()
    with pytest.raises(DataError, match="prints something else than before"):
        pipes.open(pipes.paths[0])


@pytest.mark.parametrize("command", ["head -c 700 {}/0.tar", "cat {}/0.tar; exit 3", "echo no tar"])
def test_output_that_is_cut_short_or_fails_is_named(counted, tmp_path, command):
    with pytest.raises(DataError, match=r"damaged or truncated|status 3: it said nothing"):
        open_images("pipe:" + command.format(tmp_path), allow_pipes=True)


def test_the_folder_goes_with_the_dataset(counted):
    dataset = open_images(counted, allow_pipes=True)
    folder = dataset.shards[0].parent
    assert folder.is_dir()
    pid = os.fork()
    if pid == 0:
        del dataset
        os._exit(0)
    os.waitpid(pid, 0)
    assert folder.is_dir()
    del dataset
    assert not folder.exists()


def test_a_pipe_is_not_streamed_and_a_url_is_not_fetched(counted):
    with pytest.raises(DataError, match="cannot be streamed"):
        open_images(counted, allow_pipes=True).stream()
    with pytest.raises(DataError, match="download the shards first"):
        open_images("https://example.com/{0..3}.tar", allow_pipes=True)


def test_a_key_in_two_commands_is_named(tmp_path):
    for i in range(2):
        shard(tmp_path / f"{i}.tar", ["same"])
    with pytest.raises(DataError, match=r"'same' is in 'pipe:cat .*0\.tar' and again in 'pipe:cat .*1\.tar'"):
        open_images(f"pipe:cat {tmp_path}/{{0..1}}.tar", allow_pipes=True)


def test_the_folder_of_a_killed_process_goes_with_the_next_one_and_that_of_a_live_one_stays(
    counted, monkeypatch, tmp_path
):
    room = tmp_path / "room"
    room.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            dataset = open_images(counted, allow_pipes=True)
            assert dataset is not None
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    (dead,) = room.iterdir()
    living = open_images(counted, allow_pipes=True)
    assert dead.is_dir()  # it might be about to be locked
    for owner in room.glob("*/owner"):
        os.utime(owner, (0, 0))
    again = open_images(counted, allow_pipes=True)
    assert not dead.exists()
    assert set(room.iterdir()) == {living.shards[0].parent, again.shards[0].parent}


def test_tars_without_commands_need_no_folder(tmp_path, monkeypatch):
    shard(tmp_path / "a.tar", ["k"])
    room = tmp_path / "room"
    room.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    dataset = WebDatasetImages(tmp_path / "a.tar")
    assert len(dataset) == 1 and not list(room.iterdir())


def test_data_is_imported_where_there_is_no_fcntl_and_no_fork(tmp_path):
    code = "import os, sys; sys.modules['fcntl'] = None; del os.register_at_fork; import vistok.data.pipes, vistok.data.parquet_rows"
    # torch itself asks for register_at_fork
    code = code.replace("del os.", "import torch, torch.utils.data, vistok.tokenizer; del os.")
    subprocess.run([sys.executable, "-c", code], check=True)
