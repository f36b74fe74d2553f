import json
import random
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from vistok.errors import ShardError
from vistok.shards.arrow_container import ArrowContainer
from vistok.shards.arrow_file import write_batch
from vistok.shards.arrow_schema import RunColumns
from vistok.shards.commit import replacing
from vistok.shards.container import Origin, Sample
from vistok.spec import StreamSpec, TokenizerSpec

PIXEL = StreamSpec("pixel", codebook_size=1000)
SEMANTIC = StreamSpec("semantic", role="semantic", dim=3)
SPEC = TokenizerSpec("t", "both", (PIXEL, SEMANTIC))
ORIGIN = Origin("0" * 64, SPEC)
BOXES = [ArrowContainer(), ArrowContainer(packed=True)]
LATENTS = TokenizerSpec("t", "continuous", (StreamSpec("pixel", dim=4),))


@pytest.fixture(params=BOXES, ids=lambda box: box.name)
def box(request):
    return request.param


def some_samples(count=5, first=7, lengths=(4,), grids=((2, 2),), sizes=((16, 16),), fields=({},)):
    dice = np.random.default_rng(count)
    return [
        Sample(
            first + i,
            {
                "pixel": dice.integers(0, 1000, (lengths[i % len(lengths)], 2)).astype(np.uint16),
                "semantic": dice.normal(size=(2, 3)).astype(np.float32),
            },
            {
                "key": f"k{i}",
                "size": list(sizes[i % len(sizes)]),
                "grid": {"pixel": list(grids[i % len(grids)]), "semantic": [2]},
                **fields[i % len(fields)],
            },
        )
        for i in range(count)
    ]


def written(path, samples, box, origin=ORIGIN):
    with replacing(path) as file:
        assert box.write(file, samples, origin) == len(samples)
    return path


def assert_same(sample, expected):
    assert (sample.number, sample.meta) == (expected.number, expected.meta)
    assert sample.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(sample.arrays[name], array)
        assert sample.arrays[name].dtype == array.dtype


FIELDS = {
    "typed": [{"label": 3, "caption": "a cat", "score": 0.5, "flag": True, "box": [1, 2, 3, 4], "texts": ["é", ""]}],
    "null": [{"label": 1, "text": "a"}, {"label": None, "text": None}],
    "absent": [{"label": 1, "text": "a", "on": True}, {}],
    "null and absent": [{"label": 1}, {"label": None}, {}],
    "mixed": [{"x": 1, "y": "a", "z": True}, {"x": 0.5, "y": 1, "z": 1}],
    "nested": [{"x": {"a": [1, {"b": None}]}, "y": [[1], [2]], "z": [None, 1]}, {"x": {}, "y": [], "z": []}],
    "names of other columns": [{"pixel": 1, "json": "x", "height": 2, "pixel.grid": 3, "": 4, "a.b": 5, "\udcff": 6}],
    "large": [{"x": 2**70, "y": 2**53 + 1, "z": -(2**63)}, {"x": 1, "y": 0.5, "z": 2**63 - 1}],
    "not text": [{"x": "\udcff"}, {"x": "fine"}],
    "empty": [{"x": [], "y": "", "z": None}],
}  # fmt: skip
SHAPES = {
    "one shape": {},
    "several lengths": {"lengths": (4, 1, 3, 0)},
    "several grids": {"lengths": (4, 6), "grids": ((2, 2), (2, 3)), "sizes": ((16, 16), (16, 24))},
    "grids of several ranks": {"lengths": (3, 4), "grids": ((3,), (2, 2))},
    "nothing": {"lengths": (0,)},
}


SET = RunColumns(
    None, {"label": "int64", "text": "string", "x": "int64", "y": "double", "box": "list<item: int64>"}
)
ORIGINS = [ORIGIN, replace(ORIGIN, columns=SET)]


@pytest.mark.parametrize("origin", ORIGINS, ids=["own columns", "set columns"])
@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_fields_of_every_kind_come_back_as_they_were(tmp_path, box, fields, origin):
    samples = some_samples(fields=fields)
    shard = box.open(written(tmp_path / "a", samples, box, origin))
    for position in (4, 0, 2, 1, 3):
        assert_same(shard.read(position), samples[position])


@pytest.mark.parametrize("origin", ORIGINS, ids=["own columns", "set columns"])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_tokens_of_every_shape_come_back_as_they_were(tmp_path, box, shapes, origin):
    samples = some_samples(9, **shapes)
    shard = box.open(written(tmp_path / "a", samples, box, origin))
    assert shard.numbers.tolist() == list(range(7, 16))
    for position in range(9):
        assert_same(shard.read(position), samples[position])
    block = shard.take(np.array([8, 0, 3, 3]))
    for place, position in enumerate((8, 0, 3, 3)):
        for name, array in samples[position].arrays.items():
            np.testing.assert_array_equal(block.arrays[name][place], array)


@pytest.mark.parametrize("codes", [1, 2, 256, 257, 65536, 65537, 2**32 + 1, 2**62])
def test_codebooks_of_every_size_are_held_exactly(tmp_path, box, codes):
    spec = TokenizerSpec("t", "discrete", (StreamSpec(codebook_size=codes),))
    bits = next(size for size in (8, 16, 32, 64) if codes <= 1 << size)
    dice = np.random.default_rng(0)
    samples = [
        Sample(i, {"pixel": np.append(dice.integers(0, codes, 8), codes - 1).astype(f"uint{bits}")[:, None]},
               {"key": str(i), "size": [8, 8], "grid": {"pixel": [3, 3]}})
        for i in range(3)
    ]  # fmt: skip
    shard = box.open(written(tmp_path / "a", samples, box, Origin("", spec)))
    for position, sample in enumerate(samples):
        assert_same(shard.read(position), sample)


def test_skipped_numbers_stay_skipped(tmp_path, box):
    samples = [sample for sample in some_samples(20) if sample.number not in (9, 10, 26)]
    shard = box.open(written(tmp_path / "a", samples, box))
    assert shard.numbers.tolist() == [sample.number for sample in samples]
    assert shard.read(2).number == 11


def test_a_shard_without_samples_is_a_shard(tmp_path, box):
    assert len(box.open(written(tmp_path / "a", [], box)).numbers) == 0


def test_equal_samples_give_equal_bytes_whatever_the_name_of_the_tokenizer(tmp_path, box):
    samples = some_samples(50, lengths=(4, 2), fields=FIELDS["absent"])
    named = TokenizerSpec("other", "both", SPEC.streams, provenance={"recipe": "x"}, licence="mine")
    one = written(tmp_path / "a", samples, box).read_bytes()
    assert written(tmp_path / "b", samples, box, Origin("0" * 64, named)).read_bytes() == one


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_latents_are_held_in_the_type_that_was_asked_for(tmp_path, box, dtype):
    import torch

    values = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0)) * 100
    rounded = values.to(getattr(torch, dtype))
    given = rounded if dtype == "float16" else rounded.float()
    samples = [
        Sample(i, {"pixel": array.numpy()}, {"key": str(i), "size": [8, 8], "grid": {"pixel": [2, 3]}})
        for i, array in enumerate(given)
    ]
    path = written(tmp_path / "a", samples, box, Origin("", LATENTS, dtype))
    for position, sample in enumerate(samples):
        assert_same(box.open(path).read(position), sample)
    column = pa.ipc.open_file(path).read_all()["pixel"]
    assert (
        column.type.value_type
        == {"float32": pa.float32(), "float16": pa.float16(), "bfloat16": pa.uint16()}[dtype]
    )


@pytest.mark.parametrize(
    "wrong", [{}, {"pixel": np.zeros((2, 1), np.int64)}, {"pixel": np.zeros(3, np.uint16)}]
)
def test_samples_that_the_spec_does_not_describe_are_refused(tmp_path, box, wrong):
    sample = some_samples(1)[0]
    broken = Sample(0, {"semantic": sample.arrays["semantic"], **wrong}, sample.meta)
    with pytest.raises(ShardError, match="stream pixel"):
        written(tmp_path / "a", [broken], box)


def test_every_cut_is_noticed_without_any_record(tmp_path, box):
    data = written(tmp_path / "a", some_samples(300), box).read_bytes()
    cut = tmp_path / "cut"
    for length in [*range(0, len(data), 512), *range(len(data) - 100, len(data))]:
        cut.write_bytes(data[:length])
        with pytest.raises(ShardError):
            box.open(cut)


def test_every_flipped_bit_outside_the_body_is_noticed_without_any_record(tmp_path, box):
    data = written(tmp_path / "a", some_samples(3), box).read_bytes()
    body = data.index(b"k0k1k2")
    footer = len(data) - 10 - struct.unpack("<i", data[-10:-6])[0]
    places = [*range(body - 700, body - 100), *range(8), *range(footer - 16, len(data))]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        (tmp_path / "b").write_bytes(damaged)
        with pytest.raises(ShardError):
            box.open(tmp_path / "b")


def test_damage_never_raises_anything_but_shard_errors(tmp_path, box):
    """The checksum is made right again, so that Arrow sees the damage."""
    import zlib

    from vistok.shards.arrow_file import _body_start, _checksum

    data = written(tmp_path / "a", some_samples(3, lengths=(4, 2), fields=FIELDS["mixed"]), box).read_bytes()
    footer = len(data) - 10 - struct.unpack("<i", data[-10:-6])[0]
    dice = random.Random(0)
    assert _checksum(memoryview(b"ab"), memoryview(b"c")) == zlib.crc32(b"abc")
    for _ in range(600):
        damaged = bytearray(data)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(8, len(data) - 10)] = dice.randrange(256)
        view = memoryview(damaged)
        start = _body_start(view, footer - 16)
        check = _checksum(view[:start], view[footer - 16 : footer - 8], view[footer:])
        damaged[footer - 8 : footer] = b"VTK1" + struct.pack("<I", check)
        (tmp_path / "b").write_bytes(damaged)
        try:
            shard = box.open(tmp_path / "b")
            for position in range(len(shard.numbers)):
                shard.read(position)
        except ShardError:
            pass


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"numbers": [[0, 10**15]]}, {"numbers": [[5, 2], [7, 15]]}, {"numbers": "x"}, {"streams": {}},
        {"streams": {"other": {}}}, {"size": None}, {"size": "abc"}, {"optional": None}, {"format": None},
        {"pixel": {"dtype": "object"}}, {"pixel": {"dtype": "uint64"}}, {"pixel": {"shape": [10**12, 10**12]}},
        {"pixel": {"shape": [None, 1]}}, {"pixel": {"shape": [1, 2]}}, {"pixel": {"bits": 70}}, {"pixel": {"bits": -1}},
        {"pixel": {"grid": "ab"}}, {"pixel": {"grid": None}},
    ],
    ids=str,
)  # fmt: skip
def test_metadata_that_contradicts_the_columns_is_refused(tmp_path, box, change):
    batch = pa.ipc.open_file(written(tmp_path / "a", some_samples(), box)).get_batch(0)
    described = json.loads(batch.schema.metadata[b"vistok"])
    stream = {**described["streams"]["pixel"], **change.get("pixel", {})}
    described.update({name: value for name, value in change.items() if name != "pixel"})
    if "pixel" in change:
        described["streams"]["pixel"] = stream
    with replacing(tmp_path / "b") as file:
        write_batch(file, batch.replace_schema_metadata({"vistok": json.dumps(described)}))
    with pytest.raises(ShardError):
        box.open(tmp_path / "b")


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "arrow", "two batches", "stream"])
def test_what_vistok_did_not_write_is_refused(tmp_path, box, kind):
    path, batch = tmp_path / "a", pa.record_batch({"key": ["a"]})
    if kind == "folder":
        path.mkdir()
    elif kind in ("empty", "text"):
        path.write_bytes(b"" if kind == "empty" else b"not a shard" * 100)
    elif kind == "arrow":
        with pa.ipc.new_file(path, batch.schema) as writer:
            writer.write_batch(batch)
    elif kind == "stream":
        with pa.ipc.new_stream(path, batch.schema) as writer:
            writer.write_batch(batch)
    elif kind == "two batches":
        data = written(path, some_samples(), box).read_bytes()
        path.write_bytes(data + data)
    with pytest.raises(ShardError) as raised:
        box.open(path)
    assert "\n" not in str(raised.value)


def test_no_file_stays_open(tmp_path, box):
    path = written(tmp_path / "a", some_samples(), box)
    before = len(list(Path("/proc/self/fd").iterdir()))
    shards = [box.open(path) for _ in range(20)]
    # fewer where something of an earlier test was let go meanwhile
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    path.unlink()
    assert_same(shards[0].read(1), some_samples()[1])


def test_pyarrow_polars_and_datasets_read_the_shards(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    samples = some_samples(20, fields=[{"label": 3, "caption": "é"}])
    path = written(tmp_path / "a.arrow", samples, ArrowContainer())
    table = pa.ipc.open_file(path).read_all()
    assert table.column_names == ["key", "pixel", "semantic", "caption", "label"]
    assert table.schema.field("pixel").type.list_size == 8
    for column in table.columns:
        for chunk in column.chunks:
            assert chunk.buffers()[0] is None  # no validity bitmap
    polars = pytest.importorskip("polars")
    frame = polars.read_ipc(path)
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset("arrow", data_files=[str(path)], split="train", cache_dir=str(tmp_path))
    for position, sample in enumerate(samples):
        expected = sample.arrays["pixel"].flatten().tolist()
        assert table["pixel"][position].as_py() == expected
        assert frame["pixel"][position].to_list() == expected
        assert loaded[position]["pixel"] == expected
        assert frame["key"][position] == loaded[position]["key"] == sample.meta["key"]
        assert loaded[position]["caption"] == "é"


@pytest.mark.parametrize(
    ("codes", "count", "most"), [(16384, 1000, 1.02), (1024, 1000, 1.03), (16384, 100, 1.08)]
)
def test_a_shard_is_little_more_than_its_tokens_and_keys(tmp_path, box, codes, count, most):
    spec = TokenizerSpec("t", "discrete", (StreamSpec(codebook_size=codes),))
    dice = np.random.default_rng(0)
    samples = [
        Sample(i, {"pixel": dice.integers(0, codes, (256, 1)).astype(np.uint16)},
               {"key": f"{i:020d}", "size": [256, 256], "grid": {"pixel": [16, 16]}})
        for i in range(count)
    ]  # fmt: skip
    size = written(tmp_path / "a", samples, box, Origin("0" * 64, spec)).stat().st_size
    payload = 512 if box.name == "arrow" else 256 * (codes - 1).bit_length() / 8
    assert size / count < most * (payload + 20)
