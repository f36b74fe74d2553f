"""What holds of every format."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from tests.shards.conftest import build_tokenizer, named
from tests.shards.exports.conftest import (
    continuous,
    discrete,
    exported,
    files,
    labels,
    random_tokens,
    write_shards,
)
from vistok import shards
from vistok.errors import ShardError
from vistok.quantizers import FSQ, Residual
from vistok.shards.exports import FORMATS, LlamaGen, Megatron, Parquet, TokenNumbering
from vistok.shards.exports.folder import RECORD_NAME

DISCRETE = sorted(name for name, format_class in FORMATS.items() if format_class.kind != "continuous")
CONTINUOUS = sorted(name for name, format_class in FORMATS.items() if format_class.kind != "discrete")


def made_for(name, tokens_made, latents_made):
    format_class = FORMATS[name]
    missing = [m for m in format_class.packages if importlib.util.find_spec(m) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")
    return format_class(), latents_made if format_class.kind == "continuous" else tokens_made


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_shards_give_the_same_bytes(tokens_made, latents_made, tmp_path, name, monkeypatch):
    to, made = made_for(name, tokens_made, latents_made)
    first = exported(made, to, tmp_path / "one" / "out")
    monkeypatch.setattr("time.time", lambda: 1.0)
    second = exported(made, to, tmp_path / "two" / "elsewhere")
    assert files(tmp_path / "one" / "out") == files(tmp_path / "two" / "elsewhere")
    assert first.sha256 == second.sha256 and first.num_samples == second.num_samples == len(shards.open(made))


@pytest.mark.parametrize("name", sorted(set(DISCRETE) - set(CONTINUOUS)))
def test_formats_of_indices_refuse_continuous_shards(latents_made, tmp_path, name, monkeypatch):
    monkeypatch.setattr(FORMATS[name], "packages", {})
    with pytest.raises(
        ShardError, match=f"{name} holds indices, and the shards of .* are continuous: export to"
    ):
        exported(latents_made, FORMATS[name](), tmp_path / "out")


@pytest.mark.parametrize("name", sorted(set(CONTINUOUS) - set(DISCRETE)))
def test_formats_of_latents_refuse_discrete_shards(tokens_made, tmp_path, name):
    with pytest.raises(
        ShardError, match=f"{name} holds latents, and the shards of .* are discrete: export to"
    ):
        exported(tokens_made, FORMATS[name](), tmp_path / "out")


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"parquet"}))
def test_formats_of_one_stream_ask_which(tmp_path, name):
    arrays = {"a": {"pixel": [[1]], "semantic": [[2]]}}
    made = write_shards(tmp_path / "made", arrays, discrete(names=("pixel", "semantic")))
    with pytest.raises(ShardError, match=r"several token streams .* --stream pixel or semantic"):
        exported(made, FORMATS[name](), tmp_path / "out")


@pytest.mark.parametrize("name", sorted(set(DISCRETE) - {"parquet"}))
def test_formats_of_one_sequence_ask_for_the_order_of_groups(tmp_path, name, monkeypatch):
    monkeypatch.setattr(FORMATS[name], "packages", {})
    arrays = random_tokens(2, groups=3)
    made = write_shards(tmp_path / "made", arrays, discrete(num_groups=3), labels(arrays))
    with pytest.raises(
        ShardError, match=f"3 indices a position and {name} is one sequence: give --group-order"
    ):
        exported(made, FORMATS[name](), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_stream_that_was_named_is_exported(tmp_path):
    arrays = {"a": {"pixel": [[1]], "semantic": [[2], [3]]}}
    made = write_shards(tmp_path / "made", arrays, discrete(names=("pixel", "semantic")))
    exported(made, Megatron(), tmp_path / "out", stream="semantic")
    assert np.fromfile(tmp_path / "out" / "tokens.bin", "<u2").tolist() == [2, 3]
    with pytest.raises(ShardError, match=r"no stream 'text' in .*: there is pixel, semantic"):
        exported(made, Megatron(), tmp_path / "other", stream="text")


def test_unfinished_shards_are_refused_unless_what_is_there_is_asked_for(tmp_path):
    made = write_shards(tmp_path / "made", random_tokens(), discrete(), finished=2)
    with pytest.raises(ShardError, match=r"only 2 of 3 shards of .* --partial"):
        exported(made, Megatron(), tmp_path / "out")
    summary = exported(made, Megatron(), tmp_path / "out", partial=True)
    assert summary.num_samples == 6 and "2 of 3 shards" in summary.notes[0]


def test_a_shard_that_came_later_makes_it_another_export(tmp_path):
    made = write_shards(tmp_path / "made", random_tokens(), discrete(), finished=2)
    exported(made, Megatron(), tmp_path / "out", partial=True)
    (tmp_path / "whole").mkdir()
    whole = write_shards(tmp_path / "whole" / "made", random_tokens(), discrete())
    with pytest.raises(ShardError, match=r"source\.shards was"):
        exported(whole, Megatron(), tmp_path / "out")


def test_damage_that_shows_ends_the_export_and_leaves_nothing(tmp_path):
    made = write_shards(tmp_path / "made", random_tokens(), discrete())
    shard = made / "shard-000002.tar"
    data = bytearray(shard.read_bytes())
    data[:100] = bytes(100)
    shard.write_bytes(data)
    with pytest.raises(ShardError, match="damaged"):
        exported(made, Megatron(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_package_that_is_missing_is_named_with_the_remedy(tokens_made, tmp_path, monkeypatch):
    monkeypatch.setattr(Parquet, "packages", {"no_such_module": "no-such-package"})
    with pytest.raises(ShardError, match="pip install no-such-package"):
        exported(tokens_made, Parquet(), tmp_path / "out")


def test_the_summary_is_one_line_and_json(tokens_made, tmp_path):
    summary = exported(tokens_made, LlamaGen(), tmp_path / "out")
    assert "7 samples, 112 tokens as llamagen, 14 files" in str(summary) and "\n" not in str(summary)
    data = json.loads(summary.to_json())
    assert (data["format"], data["num_files"], data["out"]) == ("llamagen", 14, str(tmp_path / "out"))
    read = [p for p in (tmp_path / "out").rglob("*") if p.is_file() and p.name != RECORD_NAME]
    assert data["bytes"] == sum(path.stat().st_size for path in read)


def test_what_a_tokenizer_encodes_is_what_is_exported(tmp_path):
    tokenizer = build_tokenizer(Residual(FSQ((4, 4, 4)), 2))
    images = named(5)
    shards.encode(tokenizer, images, tmp_path / "made", shard_size=2, progress=False)
    numbering = TokenNumbering(offset=7, group_order="position", group_stride=64)
    exported(tmp_path / "made", Megatron(numbering), tmp_path / "out")
    encoded = tokenizer.encode(torch.stack([images[i]["image"] for i in range(5)])).indices
    expected = encoded + 7 + 64 * torch.arange(2)
    assert np.fromfile(tmp_path / "out" / "tokens.bin", "<u2").tolist() == expected.flatten().tolist()


def test_shards_without_a_sample_are_refused(tmp_path):
    made = write_shards(tmp_path / "made", {"a": np.zeros((4, 4))}, continuous(), finished=0)
    with pytest.raises(ShardError, match="no finished shard"):
        exported(made, Parquet(), tmp_path / "out")
