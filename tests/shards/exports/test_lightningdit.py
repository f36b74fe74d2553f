import functools

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.shards.exports.conftest import continuous, exported, with_flips, write_shards
from vistok.errors import ShardError
from vistok.shards.exports import LightningDiT
from vistok.shards.exports.lightningdit import unbiased
from vistok.shards.latents import ChannelStatistics


def read_back(folder):
    """Tensors by name of all files in the order of their names, row by row as the reader slices them."""
    rows = {"latents": [], "latents_flip": [], "labels": []}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in file.keys():  # noqa: SIM118  (no mapping)
                part = file.get_slice(name)
                rows[name] += [part[i : i + 1] for i in range(part.get_shape()[0])]
    return {name: torch.cat(some) for name, some in rows.items() if some}


def expected(view=""):
    arrays, _ = with_flips()
    keys = sorted(k for k in arrays if "#" not in k)
    stacked = np.stack([arrays[k + view].T.reshape(4, 4, 4) for k in keys])
    return torch.from_numpy(stacked), [int(k[6]) for k in keys]


@pytest.mark.parametrize(("images_per_file", "count"), [(10_000, 1), (5, 1), (2, 3)])
def test_the_reader_finds_latents_flips_and_labels(latents_made, tmp_path, images_per_file, count):
    exported(latents_made, LightningDiT(images_per_file=images_per_file), tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert names == [f"latents_rank00_shard{i:03d}.safetensors" for i in range(count)]
    read = read_back(tmp_path / "out")
    latents, labels = expected()
    assert torch.equal(read["latents"], latents)
    assert torch.equal(read["latents_flip"], expected("#flip")[0])
    assert read["labels"].dtype == torch.int64 and read["labels"].tolist() == labels


def test_statistics_are_those_of_all_latents(latents_made, tmp_path):
    exported(latents_made, LightningDiT(), tmp_path / "out")
    stats = torch.load(tmp_path / "out" / "latents_stats.pt", weights_only=True)
    latents = expected()[0].double()
    assert list(stats) == ["mean", "std"]
    for name in stats:
        value = getattr(latents, name)(dim=(0, 2, 3), keepdim=True)
        assert (stats[name].dtype, stats[name].shape) == (torch.float32, (1, 4, 1, 1))
        torch.testing.assert_close(stats[name].double(), value, rtol=1e-6, atol=1e-7)


def test_statistics_keep_their_digits_far_from_zero():
    draws = np.random.default_rng(0).normal(size=(50, 1, 10, 10)) * 0.01 + 1000
    found = [ChannelStatistics.of(draw.reshape(1, -1).T) for draw in draws.astype(np.float32)]
    statistics = functools.reduce(ChannelStatistics.merged, found)
    torch.testing.assert_close(
        unbiased(statistics)["std"].item(), float(draws.astype(np.float32).std(ddof=1)), rtol=1e-4, atol=0
    )


def test_flips_may_be_left_out(latents_made, tmp_path):
    exported(latents_made, LightningDiT(views="original"), tmp_path / "out")
    assert sorted(read_back(tmp_path / "out")) == ["labels", "latents"]


def test_images_of_two_sizes_are_refused_by_name(tmp_path):
    arrays = {"a": np.zeros((4, 4)), "b": np.zeros((9, 4))}
    made = write_shards(tmp_path / "made", arrays, continuous(), {k: {"label": 0} for k in arrays})
    with pytest.raises(ShardError, match=r"'b' has latents \(4, 3, 3\) where the first had \(4, 2, 2\)"):
        exported(made, LightningDiT(views="original"), tmp_path / "out")


def test_a_file_of_no_images_is_refused(latents_made, tmp_path):
    with pytest.raises(ShardError, match="--images-per-file must be at least 1"):
        exported(latents_made, LightningDiT(images_per_file=0), tmp_path / "out")
