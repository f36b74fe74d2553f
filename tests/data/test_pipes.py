import io
import os
import pickle
import tarfile
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
