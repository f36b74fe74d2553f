import importlib.util
import json
import struct

import numpy as np
import pytest

from tests.shards.exports.conftest import (
    discrete,
    exported,
    labels,
    random_tokens,
    with_flips,
    write_shards,
)
from vistok.errors import ShardError
from vistok.shards.exports import MDS, TokenNumbering

installed = importlib.util.find_spec("streaming") is not None
needs_writer = pytest.mark.skipif(not installed, reason="mosaicml-streaming is not installed")


def read_back(folder):
    """Rows of all shards by the description of the format: offsets, then per row the sizes of its columns of no fixed size."""
    for shard in json.loads((folder / "index.json").read_text())["shards"]:
        data = (folder / shard["raw_data"]["basename"]).read_bytes()
        (count,) = struct.unpack_from("<I", data)
        offsets = struct.unpack_from(f"<{count + 1}I", data, 4)
        for start in offsets[:-1]:
            row, loose = {}, [size is None for size in shard["column_sizes"]]
            sizes = list(struct.unpack_from(f"<{sum(loose)}I", data, start))
            position = start + 4 * len(sizes)
            for name, size in zip(shard["column_names"], shard["column_sizes"], strict=True):
                size = sizes.pop(0) if size is None else size
                row[name], position = data[position : position + size], position + size
            yield row


def array_of(value, dtype):
    """An array of fixed type: number of axes and type of the sides in a byte, the sides, the values."""
    axes, width = value[0] >> 2, 1 << (value[0] & 3)
    shape = np.frombuffer(value, f"<u{width}", axes, 1)
    return np.frombuffer(value, dtype, offset=1 + axes * width).reshape(shape)


@pytest.mark.skipif(installed, reason="mosaicml-streaming is installed")
def test_without_its_writer_it_is_refused_with_the_remedy(tokens_made, tmp_path):
    with pytest.raises(ShardError, match="pip install mosaicml-streaming"):
        exported(tokens_made, MDS(), tmp_path / "out")


def test_shards_that_it_could_not_index_are_refused(tokens_made, tmp_path, monkeypatch):
    monkeypatch.setattr(MDS, "packages", {})
    with pytest.raises(ShardError, match="--shard-bytes is 4294967296"):
        exported(tokens_made, MDS(shard_bytes=1 << 32), tmp_path / "out")


@needs_writer
def test_rows_hold_tokens_in_the_smallest_type_and_fields(tmp_path):
    arrays = random_tokens(groups=2)
    made = write_shards(
        tmp_path / "made", arrays, discrete(num_groups=2), labels(arrays, caption="a photo", extra=[1])
    )
    numbering = TokenNumbering(offset=65_000, group_order="position", eos=3)
    exported(made, MDS(numbering, shard_bytes=800), tmp_path / "out")
    assert len(list((tmp_path / "out").glob("shard.*.mds"))) > 1
    for i, (row, key) in enumerate(zip(read_back(tmp_path / "out"), sorted(arrays), strict=True)):
        assert array_of(row["tokens"], "<u4").tolist() == [*(arrays[key] + 65_000).reshape(-1), 3]
        assert (row["key"].decode(), int.from_bytes(row["label"], "little")) == (key, i)
        assert (row["caption"], json.loads(row["fields"])) == (b"a photo", {"extra": [1]})
        assert array_of(row["grid"], "<i4").tolist() == [4, 4]


@needs_writer
def test_latents_keep_every_bit(latents_made, tmp_path):
    exported(latents_made, MDS(), tmp_path / "out")
    arrays, _ = with_flips()
    rows = {row["key"].decode(): array_of(row["latents"], "<f4") for row in read_back(tmp_path / "out")}
    assert rows.keys() == arrays.keys()
    assert all(np.array_equal(rows[key], arrays[key]) for key in arrays)


@needs_writer
def test_a_label_that_only_some_have_is_refused_by_name(tmp_path):
    made = write_shards(tmp_path / "made", {"a": [[1]], "b": [[2]]}, discrete(), {"a": {"label": 3}})
    with pytest.raises(ShardError, match="'b' has no label"):
        exported(made, MDS(), tmp_path / "out")
    made = write_shards(tmp_path / "other", {"a": [[1]], "b": [[2]]}, discrete(), {"b": {"label": 3}})
    with pytest.raises(ShardError, match="'b' has a label and those before have none"):
        exported(made, MDS(), tmp_path / "out")
    exported(made, MDS(default_label=0), tmp_path / "out")


@needs_writer
def test_its_streaming_dataset_reads_it(tokens_made, tmp_path):
    from streaming import StreamingDataset

    exported(tokens_made, MDS(TokenNumbering(bos=1000)), tmp_path / "out")
    read = StreamingDataset(local=str(tmp_path / "out"), shuffle=False, batch_size=1)
    assert len(read) == 7
    for i, array in enumerate(random_tokens().values()):
        row = read[i]
        assert row["tokens"].dtype == np.uint16 and row["tokens"].tolist() == [1000, *array[:, 0]]
        assert row["label"] == i


@needs_writer
def test_text_that_is_not_utf_8_has_escapes(tmp_path):
    fields = {"caf\udce9": {"caption": "cut \ud83d"}}
    made = write_shards(tmp_path / "made", {"caf\udce9": [[1]]}, discrete(), fields)
    exported(made, MDS(), tmp_path / "out")
    (row,) = read_back(tmp_path / "out")
    assert (row["key"], row["caption"]) == (b"caf\\udce9", b"cut \\ud83d")
    assert json.loads(row["fields"]) == {"key": "caf\udce9", "caption": "cut \ud83d"}
