import json

import numpy as np
import pytest

from tests.shards.exports.conftest import (
    continuous,
    discrete,
    exported,
    labels,
    random_tokens,
    with_flips,
    write_shards,
)
from vistok.errors import ShardError
from vistok.shards.exports import Parquet, TokenNumbering

pq = pytest.importorskip("pyarrow.parquet")


def test_pyarrow_reads_every_field(tmp_path):
    arrays = random_tokens(groups=2)
    fields = labels(arrays, caption="a photo", width=640)
    made = write_shards(tmp_path / "made", arrays, discrete(num_groups=2), fields)
    exported(made, Parquet(samples_per_file=4), tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").glob("*.parquet")) == [
        "tokens-00000.parquet",
        "tokens-00001.parquet",
    ]
    table = pq.read_table(tmp_path / "out")
    assert str(table.schema.field("indices").type) == "list<element: uint16>"
    for i, (row, key) in enumerate(zip(table.to_pylist(), sorted(arrays), strict=True)):
        assert np.array_equal(np.reshape(row["indices"], row["shape"]), arrays[key])
        assert (row["key"], row["label"], row["caption"], row["grid"]) == (key, i, "a photo", [4, 4])
        assert (row["height"], row["width"], json.loads(row["fields"])) == (16, 16, {"width": 640})


def test_labels_and_captions_that_are_missing_are_null_or_given(tmp_path):
    made = write_shards(tmp_path / "made", {"a": [[1]], "b": [[2]]}, discrete(), {"a": {"label": 3}})
    exported(made, Parquet(), tmp_path / "out")
    table = pq.read_table(tmp_path / "out").to_pydict()
    assert (table["label"], table["caption"]) == ([3, None], [None, None])
    exported(made, Parquet(default_label=7), tmp_path / "given")
    assert pq.read_table(tmp_path / "given").to_pydict()["label"] == [3, 7]


@pytest.mark.parametrize(
    ("offset", "dtype"), [(0, "uint16"), (64_536, "uint16"), (64_537, "uint32"), (1 << 40, "uint64")]
)
def test_ids_are_moved_and_widened_and_never_wrap(tokens_made, tmp_path, offset, dtype):
    exported(tokens_made, Parquet(TokenNumbering(offset=offset)), tmp_path / "out")
    column = pq.read_table(tmp_path / "out").column("indices")
    assert str(column.type.value_type) == dtype
    for read, array in zip(column.to_pylist(), random_tokens().values(), strict=True):
        assert read == (array[:, 0] + offset).tolist()


def test_latents_keep_every_bit(latents_made, tmp_path):
    exported(latents_made, Parquet(), tmp_path / "out")
    arrays, _ = with_flips()
    for row in pq.read_table(tmp_path / "out").to_pylist():
        assert np.array_equal(np.array(row["latents"], np.float32).reshape(row["shape"]), arrays[row["key"]])
        assert json.loads(row["fields"])["source"] == row["key"].split("#")[0]


def test_each_stream_has_its_columns(tmp_path):
    draw = np.random.default_rng(0)
    arrays = {
        k: {"pixel": draw.integers(9, size=(4, 1)), "semantic": draw.integers(9, size=(1, 1))} for k in "ab"
    }
    made = write_shards(tmp_path / "made", arrays, discrete(9, names=("pixel", "semantic")))
    exported(made, Parquet(), tmp_path / "out")
    for row in pq.read_table(tmp_path / "out").to_pylist():
        for name, array in arrays[row["key"]].items():
            assert np.array_equal(np.reshape(row[f"{name}_indices"], row[f"{name}_shape"]), array)
    exported(made, Parquet(TokenNumbering(offset=5)), tmp_path / "one", stream="semantic")
    assert pq.read_table(tmp_path / "one").to_pydict()["indices"] == [
        (arrays[k]["semantic"][:, 0] + 5).tolist() for k in "ab"
    ]
    with pytest.raises(ShardError, match="for one stream: give --stream"):
        exported(made, Parquet(TokenNumbering(offset=5)), tmp_path / "both")


def test_ids_mean_nothing_to_latents_and_specials_nothing_to_a_table(latents_made, tokens_made, tmp_path):
    with pytest.raises(ShardError, match="no use for ids"):
        exported(latents_made, Parquet(TokenNumbering(offset=5)), tmp_path / "out")
    with pytest.raises(ShardError, match="no place for special tokens"):
        exported(tokens_made, Parquet(TokenNumbering(eos=5000)), tmp_path / "out")


def test_row_groups_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("vistok.shards.exports.parquet.GROUP_BYTES", 1000)
    arrays = {f"{i:02d}": np.zeros((16, 4)) for i in range(10)}
    exported(write_shards(tmp_path / "made", arrays, continuous()), Parquet(), tmp_path / "out")
    assert pq.ParquetFile(tmp_path / "out" / "tokens-00000.parquet").num_row_groups == 3


def test_polars_reads_it(tokens_made, tmp_path):
    polars = pytest.importorskip("polars")
    exported(tokens_made, Parquet(), tmp_path / "out")
    table = polars.read_parquet(tmp_path / "out" / "*.parquet")
    assert table["indices"].to_list() == [array[:, 0].tolist() for array in random_tokens().values()]


def test_datasets_reads_it(tokens_made, tmp_path):
    datasets = pytest.importorskip("datasets")
    exported(tokens_made, Parquet(), tmp_path / "out")
    # by folder: the hidden record beside the tables must not be taken for one
    read = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert read["indices"][:] == [array[:, 0].tolist() for array in random_tokens().values()]
    assert read["label"][:] == list(range(7))


def test_text_that_is_not_utf_8_has_escapes_and_stays_whole_in_the_fields(tmp_path):
    keys = ["caf\udce9", "plain"]
    fields = {keys[0]: {"caption": "cut \ud83d"}, keys[1]: {"caption": "whole"}}
    made = write_shards(tmp_path / "made", {key: [[1]] for key in keys}, discrete(), fields)
    exported(made, Parquet(), tmp_path / "out")
    table = pq.read_table(tmp_path / "out").to_pydict()
    assert table["key"] == ["caf\\udce9", "plain"] and table["caption"] == ["cut \\ud83d", "whole"]
    assert [json.loads(text) for text in table["fields"]] == [{"key": keys[0], "caption": "cut \ud83d"}, {}]
