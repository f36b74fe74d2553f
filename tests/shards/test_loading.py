"""What a machine is short of is not the fault of an image."""

import errno
import json
import os
import warnings

import PIL
import pytest

from tests.shards.conftest import named
from vistok import shards
from vistok.errors import ImageError, ShardError


def wrapped(error):
    try:
        raise ImageError("torn") from error
    except ImageError as told:
        return told


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        wrapped(OSError(errno.EIO, "Input/output error")),
        MemoryError(),
    ],
    ids=["files", "memory", "disk", "python"],
)
def test_a_shortage_of_the_machine_ends_the_run_and_is_never_skipped(tokenizer, tmp_path, error, workers):
    def broken():
        raise error

    images, out = named(8, broken={"image_0005": broken}), tmp_path / "out"
    options = {"batch_size": 2, "shard_size": 4, "on_error": "skip", "max_error_rate": 1, "progress": False}
    with pytest.raises(ShardError, match=r"'image_0005' cannot be read.*run the same again") as told:
        shards.encode(tokenizer, images, out, workers=workers, **options)
    assert "\n" not in str(told.value)
    shards.encode(tokenizer, named(8), out, workers=workers, **options)
    assert shards.verify(out).num_samples == 8


def test_more_workers_than_cores_are_no_reason_to_warn(tokenizer, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "This DataLoader will create")
        shards.encode(
            tokenizer, named(2), tmp_path / "out", workers=(os.cpu_count() or 1) + 1, progress=False
        )


def test_the_version_of_what_reads_images_is_recorded(tokenizer, tmp_path):
    shards.encode(tokenizer, named(2), tmp_path / "out", progress=False)
    assert json.loads((tmp_path / "out" / "made-with.jsonl").read_text())["pillow"] == PIL.__version__
