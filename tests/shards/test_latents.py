import json
import random

import numpy as np
import pytest
import torch

from tests.shards.conftest import build_tokenizer, named, tree
from vistok import shards
from vistok.errors import ShardError, TokenizerError
from vistok.quantizers import Gaussian, Identity
from vistok.shards.latents import ChannelStatistics, LatentFormat, combined

OPTIONS = {"batch_size": 2, "shard_size": 4, "progress": False}


def direct(tokenizer, count=10):
    images = named(count)
    return tokenizer.encode(torch.stack([images[i]["image"] for i in range(count)])).latents


@pytest.mark.parametrize(("latents", "tolerance"), [("float32", 0), ("float16", 2**-11), ("bfloat16", 2**-8)])
@pytest.mark.parametrize("container", ["arrow", "tar"])
def test_latents_come_back_as_precise_as_their_type(continuous, tmp_path, container, latents, tolerance):
    options = {**OPTIONS, "container": container, "latents": latents}
    if (container, latents) == ("tar", "bfloat16"):
        with pytest.raises(ShardError, match="no bfloat16"):
            shards.encode(continuous, named(10), tmp_path / "out", **options)
        return
    shards.encode(continuous, named(10), tmp_path / "out", **options)
    assert shards.verify(tmp_path / "out").ok
    tokens, expected = shards.open(tmp_path / "out", continuous), direct(continuous)
    assert tokens[3]["latents"].dtype == torch.float32
    for item, latent in zip(tokens, expected, strict=True):
        assert bool(
            ((item["latents"] - latent).abs() <= tolerance * latent.abs() + 1e-7 * bool(tolerance)).all()
        )
    assert torch.equal(shards.collate(tokens.__getitems__([9, 1]))["latents"][1], tokens[1]["latents"])


def test_moments_hold_the_mean_and_the_deviation_that_a_draw_has(continuous, tmp_path):
    continuous.normaliser.set(0.5, 2.0)
    try:
        shards.encode(continuous, named(6), tmp_path / "out", moments=True, **OPTIONS)
        assert shards.verify(tmp_path / "out").ok
        item = shards.open(tmp_path / "out")[3]
        assert torch.equal(item["latents"], direct(continuous, 6)[3])
        image = named(6)[3]["image"][None].expand(4000, -1, -1, -1)
        draws = continuous.encode(image, sample=True).latents
        torch.testing.assert_close(draws.std(0), item["std"], rtol=0.06, atol=1e-6)
        batch = shards.collate(shards.open(tmp_path / "out").__getitems__([3, 0]))
        assert batch["std"].shape == batch["latents"].shape == (2, 4, 4)
        index = json.loads((tmp_path / "out" / "index.json").read_text())["latents"]["pixel"]
        many = torch.cat([continuous.encode(named(6)[i]["image"][None].expand(2000, -1, -1, -1), sample=True)
                          .latents.flatten(0, 1) for i in range(6)])  # fmt: skip
        torch.testing.assert_close(many.std(0), torch.tensor(index["std"]), rtol=0.02, atol=1e-3)
    finally:
        continuous.normaliser.set(0.0, 1.0)


def test_latents_without_a_distribution_have_no_moments(tmp_path):
    with pytest.raises((ShardError, TokenizerError), match="no moments"):
        shards.encode(build_tokenizer(Identity(4)), named(2), tmp_path / "out", moments=True, **OPTIONS)


@pytest.mark.parametrize("change", [{"latents": "float16"}, {"moments": True}])
def test_another_format_in_the_same_directory_is_refused_by_name(continuous, tmp_path, change):
    shards.encode(continuous, named(2), tmp_path / "out", **OPTIONS)
    with pytest.raises(ShardError, match=r"latents\.(dtype|moments) was"):
        shards.encode(continuous, named(2), tmp_path / "out", **{**OPTIONS, **change})


def test_a_latent_too_large_for_its_type_is_an_error(continuous, tmp_path):
    continuous.normaliser.set(0.0, 1e7)
    try:
        with pytest.raises(ShardError, match="too large for float16"):
            shards.encode(continuous, named(2), tmp_path / "out", latents="float16", **OPTIONS)
    finally:
        continuous.normaliser.set(0.0, 1.0)


def test_the_index_tells_mean_and_deviation_of_the_whole_run(continuous, tmp_path):
    shards.encode(continuous, named(10), tmp_path / "out", **OPTIONS)
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    expected = direct(continuous).double().flatten(0, 1)
    assert index["latents"]["pixel"]["count"] == len(expected)
    np.testing.assert_allclose(index["latents"]["pixel"]["mean"], expected.mean(0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(index["latents"]["pixel"]["std"], expected.std(0, correction=0), rtol=1e-12)
    assert (
        shards.open(tmp_path / "out").latent_statistics["pixel"].std.tolist()
        == index["latents"]["pixel"]["std"]
    )


def test_an_interrupted_run_has_the_same_statistics_to_the_last_bit(continuous, tmp_path):
    shards.encode(continuous, named(10), tmp_path / "whole", **OPTIONS)
    shards.encode(continuous, named(10), tmp_path / "out", **OPTIONS)
    for name in ("shard-000001.json", "index.json"):
        (tmp_path / "out" / name).unlink()
    shards.encode(continuous, named(10), tmp_path / "out", **OPTIONS)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize(
    "damage", [{"pixel": {}}, {"pixel": {"count": 1, "mean": [0], "m2": ["x"]}}, {"pixel": 1}]
)
def test_a_record_with_damaged_statistics_is_not_a_record(continuous, tmp_path, damage):
    out = tmp_path / "out"
    shards.encode(continuous, named(4), out, **OPTIONS)
    before, path = tree(out), out / "shard-000000.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "latents": damage}))
    assert "statistics are damaged" in shards.verify(out).problems[0]
    shards.encode(continuous, named(4), out, **OPTIONS)
    assert tree(out) == before


def test_wrong_statistics_in_a_record_are_found(continuous, tmp_path):
    out = tmp_path / "out"
    shards.encode(continuous, named(4), out, **OPTIONS)
    path = out / "shard-000000.json"
    record = json.loads(path.read_text())
    record["latents"]["pixel"]["mean"][0] += 1e-3
    path.write_text(json.dumps(record))
    assert "another mean or deviation" in shards.verify(out).problems[0]


def test_statistics_merge_to_those_of_the_whole():
    values = np.random.default_rng(0).normal(1e4, 1e-2, (3000, 3))
    cuts = sorted(random.Random(0).sample(range(1, 3000), 20))
    parts = [ChannelStatistics.of(part) for part in np.split(values, cuts)]
    whole = combined([{"x": part.to_json_data()} for part in parts])["x"]
    assert whole.count == 3000
    np.testing.assert_allclose(whole.mean, values.mean(0), rtol=1e-13)
    np.testing.assert_allclose(whole.std, values.std(0), rtol=1e-8)
    assert ChannelStatistics.of(np.empty((0, 3))).merged(parts[0]).mean.tolist() == parts[0].mean.tolist()


def test_an_unknown_type_is_refused():
    with pytest.raises(ShardError, match="float32, float16, bfloat16"):
        LatentFormat("int8")


@pytest.mark.parametrize("latents", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, -1, 0x7F800001])
def test_a_nan_of_any_bits_is_an_error_in_every_type(tmp_path, monkeypatch, latents, bits):
    # a signalling NaN may not become Inf either
    tokenizer = build_tokenizer(Gaussian(dim=4))
    encode = tokenizer.encode

    def broken(images, sample=False):
        encoded = encode(images, sample=sample)
        encoded.main.latents.view(torch.int32).fill_(bits)
        return encoded

    monkeypatch.setattr(tokenizer, "encode", broken)
    with pytest.raises(ShardError, match=f"NaN, Inf or too large for {latents}"):
        shards.encode(tokenizer, named(2), tmp_path / "out", latents=latents, progress=False)
    values = np.array([bits], np.int32).view(np.float32)
    assert np.isnan(LatentFormat(latents).rounded(values)).all()
