import os
import signal
import time

import pytest

from tests.shards.conftest import ended, forked
from tests.shards.exports.conftest import exported, files
from vistok.errors import ShardError
from vistok.shards.commit import locked
from vistok.shards.exports import MAR, LightningDiT, LlamaGen, Megatron, TiTok, TokenNumbering
from vistok.shards.exports.folder import LOCK_NAME, RECORD_NAME, TEMP_PREFIX
from vistok.shards.exports.source import Source


def slowly(monkeypatch, seconds=0.02):
    read = Source.read

    def slow(self, position):
        time.sleep(seconds)
        return read(self, position)

    monkeypatch.setattr(Source, "read", slow)


@pytest.mark.parametrize("to", [LlamaGen(), Megatron(), TiTok()])
def test_an_export_killed_at_any_moment_never_looks_finished_and_can_be_run_again(
    tokens_made, tmp_path, monkeypatch, to
):
    exported(tokens_made, to, tmp_path / "whole")
    slowly(monkeypatch)
    out = tmp_path / "out"
    for delay in (0.0, 0.03, 0.06, 0.1, 0.13):
        pid = forked(lambda: exported(tokens_made, to, out))
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        ended(pid)
        # where it stands it is whole: the kill may have come after the end
        assert not out.exists() or files(out) == files(tmp_path / "whole")
    exported(tokens_made, to, out)
    assert files(out) == files(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_an_error_leaves_nothing_behind(tokens_made, tmp_path, monkeypatch):
    read = Source.read

    def failing(self, position):
        if position == 4:
            raise KeyboardInterrupt
        return read(self, position)

    monkeypatch.setattr(Source, "read", failing)
    with pytest.raises(KeyboardInterrupt):
        exported(tokens_made, Megatron(), tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_complete_and_equal_export_is_left_alone(tokens_made, tmp_path):
    first = exported(tokens_made, Megatron(), tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    second = exported(tokens_made, Megatron(), tmp_path / "out")
    assert "was there already" in str(second) and second.seconds == 0
    assert (second.sha256, second.num_samples, second.num_tokens) == (first.sha256, 7, 112)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == times


def test_another_export_in_the_same_place_is_refused_by_what_differs(tokens_made, tmp_path):
    exported(tokens_made, Megatron(), tmp_path / "out")
    with pytest.raises(ShardError, match=r"settings\.tokens\.eos was null and is 1000 now"):
        exported(tokens_made, Megatron(TokenNumbering(eos=1000)), tmp_path / "out")
    with pytest.raises(ShardError, match='format was "megatron" and is "titok" now'):
        exported(tokens_made, TiTok(), tmp_path / "out")


@pytest.mark.parametrize("change", ["flip a byte", "cut", "remove", "add"])
def test_an_export_that_was_changed_is_refused(tokens_made, tmp_path, change):
    exported(tokens_made, Megatron(), tmp_path / "out")
    path = tmp_path / "out" / "tokens.bin"
    data = bytearray(path.read_bytes())
    if change == "flip a byte":
        data[17] ^= 1
        path.write_bytes(data)
    elif change == "cut":
        path.write_bytes(data[:-1])
    elif change == "remove":
        path.unlink()
    else:
        (tmp_path / "out" / "other").write_bytes(b"")
    with pytest.raises(ShardError, match="was changed since it was exported"):
        exported(tokens_made, Megatron(), tmp_path / "out")


def test_a_damaged_record_is_refused(tokens_made, tmp_path):
    exported(tokens_made, Megatron(), tmp_path / "out")
    (tmp_path / "out" / RECORD_NAME).write_text("{")
    with pytest.raises(ShardError, match="is damaged"):
        exported(tokens_made, Megatron(), tmp_path / "out")


def test_places_that_hold_other_things_are_refused(tokens_made, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ShardError, match="is not a directory"):
        exported(tokens_made, Megatron(), tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ShardError, match="is not a directory"):
        exported(tokens_made, Megatron(), tmp_path / "link")
    with pytest.raises(ShardError, match="'file' and is not an export"):
        exported(tokens_made, Megatron(), tmp_path)
    with pytest.raises(ShardError, match="lies in the shards"):
        exported(tokens_made, Megatron(), tokens_made / "out")


def test_an_empty_directory_is_filled_and_a_link_to_one_stays_a_link(tokens_made, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    exported(tokens_made, Megatron(), tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "empty" / "tokens.idx").exists()


def test_two_processes_do_not_export_to_one_place(tokens_made, tmp_path):
    room = tmp_path / f"{TEMP_PREFIX}out"
    room.mkdir()
    with (
        locked(room / LOCK_NAME),
        pytest.raises(ShardError, match="out is being exported to by another process"),
    ):
        exported(tokens_made, Megatron(), tmp_path / "out")
    exported(tokens_made, Megatron(), tmp_path / "out")


def test_a_full_disk_is_one_line_and_leaves_nothing(tokens_made, tmp_path):
    import resource

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with pytest.raises(ShardError, match="out cannot be written: File too large"):
            exported(tokens_made, Megatron(), tmp_path / "out")

    assert ended(forked(work)) == 0
    assert list(tmp_path.iterdir()) == []


def test_the_record_tells_the_request_and_is_hidden(latents_made, tmp_path):
    import json

    exported(latents_made, LightningDiT(), tmp_path / "out")
    record = json.loads((tmp_path / "out" / RECORD_NAME).read_text())
    assert RECORD_NAME.startswith(".")
    assert record["request"]["settings.images_per_file"] == 10_000
    assert record["contents"]["num_files"] == 2 and record["summary"]["num_samples"] == 10


def test_files_in_folders_belong_to_the_export(latents_made, tmp_path):
    summary = exported(latents_made, MAR(), tmp_path / "out")
    assert summary.num_files == 5
    next((tmp_path / "out").rglob("*.npz")).unlink()
    with pytest.raises(ShardError, match="was changed"):
        exported(latents_made, MAR(), tmp_path / "out")
