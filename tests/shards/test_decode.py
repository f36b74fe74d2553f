import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.shards.conftest import Images, named, tree
from vistok import shards
from vistok.errors import ShardError
from vistok.shards.decode import file_name
from vistok.tokenizer.preprocess import to_pil


def test_the_pictures_are_those_of_the_direct_path(tokenizer, tmp_path):
    sizes = {"image_0002": (8, 16), "image_0004": (8, 16)}
    images = named(7, sizes=sizes)
    shards.encode(tokenizer, images, tmp_path / "out", batch_size=3, shard_size=100, progress=False)
    summary = shards.decode(tokenizer, tmp_path / "out", tmp_path / "png", batch_size=3, progress=False)
    assert summary.num_images == 7
    for group in ([0, 1, 3], [2, 4], [5, 6]):
        with torch.inference_mode():
            pixels = torch.stack([images[i]["image"] for i in group])
            expected = tokenizer.decode(tokenizer.encode(pixels))
        for place, i in enumerate(group):
            picture = Image.open(tmp_path / "png" / f"image_{i:04d}.png")
            assert np.array_equal(np.asarray(picture), np.asarray(to_pil(expected[place])))


def test_continuous_shards_are_decoded(continuous, tmp_path):
    shards.encode(continuous, named(3), tmp_path / "out", progress=False)
    shards.decode(continuous, shards.open(tmp_path / "out"), tmp_path / "png", progress=False)
    assert len(tree(tmp_path / "png")) == 3


def test_keys_of_every_kind_become_files_below_the_directory(tokenizer, tmp_path):
    keys = [
        "../up",
        "/absolute",
        "a/b",
        "a",
        "a.png/b",
        ".hidden",
        "..",
        "",
        "k" * 300,
        "new\nline",
        "é",
        "e\u0301",
        "\udcff",
    ]
    shards.encode(tokenizer, Images(keys), tmp_path / "out", progress=False)
    shards.decode(tokenizer, tmp_path / "out", tmp_path / "deep" / "png", progress=False)
    assert len(tree(tmp_path / "deep")) == len(keys)
    assert len(list((tmp_path / "deep" / "png").rglob("*.png"))) == len(keys)


@given(st.text(), st.text())
def test_file_names_are_safe_and_different_for_different_keys(one, two):
    assert (file_name(one) == file_name(two)) == (one == two)
    for part in file_name(one).split("/"):
        assert part not in ("", ".", "..")
        assert not part.startswith(".")
        assert len(part.encode()) < 250


def test_shards_of_another_tokenizer_are_refused(tokenizer, other_tokenizer, tmp_path):
    shards.encode(tokenizer, named(2), tmp_path / "out", progress=False)
    with pytest.raises(ShardError, match="weights_hash"):
        shards.decode(other_tokenizer, tmp_path / "out", tmp_path / "png", progress=False)
    assert not (tmp_path / "png").exists()


def test_an_output_that_is_a_file_is_refused(tokenizer, tmp_path):
    shards.encode(tokenizer, named(2), tmp_path / "out", progress=False)
    (tmp_path / "png").write_text("mine")
    with pytest.raises(ShardError, match="not a directory"):
        shards.decode(tokenizer, tmp_path / "out", tmp_path / "png", progress=False)


@pytest.mark.parametrize("place", [".", "png", "../out"])
def test_pictures_are_not_written_among_the_shards(tokenizer, tmp_path, place):
    shards.encode(tokenizer, named(2), tmp_path / "out", progress=False)
    before = tree(tmp_path)
    with pytest.raises(ShardError, match="lies in the shards themselves"):
        shards.decode(tokenizer, tmp_path / "out", tmp_path / "out" / place, progress=False)
    assert tree(tmp_path) == before
