"""Any tokens, any numbering: what is read back equals indices plus offsets."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.shards.exports import test_llamagen, test_megatron, test_nanotron, test_titok
from tests.shards.exports.conftest import discrete, exported, labels, write_shards
from vistok.shards.exports import LlamaGen, Megatron, Nanotron, Parquet, TiTok, TokenNumbering


@st.composite
def cases(draw):
    """Indices by key, K, and a numbering under which all ids differ."""
    size = draw(st.sampled_from([2, 255, 256, 257, 1000, 65_499, 65_500, 65_536, 65_537, 1 << 20]))
    groups = draw(st.integers(1, 3))
    counts = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    arrays = {f"{i}": random.integers(size, size=(count, groups)) for i, count in enumerate(counts)}
    offset = draw(st.sampled_from([0, 4, 64_500, 65_535, 1 << 20]))
    stride = draw(st.sampled_from([0, size]))
    end = offset + stride * (groups - 1) + size
    names = draw(st.sets(st.sampled_from(["bos", "boi", "eoi", "eos"])))
    specials = {name: end + place for place, name in enumerate(sorted(names))}
    return (
        arrays,
        size,
        TokenNumbering(offset, draw(st.sampled_from(["position", "group"])), stride, **specials),
    )


def expected(array, numbering):
    """The sequence of one image, written out the long way."""
    positions, groups = array.shape
    order = [(n, s) for n in range(positions) for s in range(groups)]
    if numbering.group_order == "group":
        order.sort(key=lambda place: (place[1], place[0]))
    ids = [int(array[n, s]) + numbering.offset + s * numbering.group_stride for n, s in order]
    before, after = [numbering.bos, numbering.boi], [numbering.eoi, numbering.eos]
    return [i for i in (*before, *ids, *after) if i is not None]


READERS = {
    Megatron: lambda folder, count: [s.tolist() for s in test_megatron.read_back(folder)],
    Nanotron: lambda folder, count: [s.tolist() for s in test_nanotron.read_back(folder)],
    TiTok: lambda folder, count: [line["tokens"] for line in test_titok.read_back(folder)],
}


@pytest.mark.parametrize("to", READERS, ids=lambda to: to.name)
@settings(max_examples=15, deadline=None)
@given(case=cases())
def test_sequences_are_indices_plus_offsets_between_special_tokens(to, case):
    arrays, size, numbering = case
    with tempfile.TemporaryDirectory() as room:
        groups = next(iter(arrays.values())).shape[1]
        made = write_shards(Path(room) / "made", arrays, discrete(size, groups), labels(arrays), shard_size=2)
        exported(made, to(numbering), Path(room) / "out")
        assert READERS[to](Path(room) / "out", len(arrays)) == [
            expected(a, numbering) for a in arrays.values()
        ]


@settings(max_examples=15, deadline=None)
@given(case=cases())
def test_tables_and_arrays_are_indices_plus_offsets(case):
    arrays, size, numbering = case
    plain = TokenNumbering(numbering.offset, numbering.group_order, numbering.group_stride)
    with tempfile.TemporaryDirectory() as room:
        groups = next(iter(arrays.values())).shape[1]
        made = write_shards(Path(room) / "made", arrays, discrete(size, groups), labels(arrays), shard_size=2)
        exported(made, LlamaGen(plain, image_size=256), Path(room) / "llamagen")
        for i, array in enumerate(arrays.values()):
            codes, _ = test_llamagen.load(Path(room) / "llamagen", i)
            assert codes.reshape(-1).tolist() == expected(array, plain)
        pq = pytest.importorskip("pyarrow.parquet")
        exported(made, Parquet(plain), Path(room) / "parquet")
        for row, array in zip(
            pq.read_table(Path(room) / "parquet").to_pylist(), arrays.values(), strict=True
        ):
            ids = array + numbering.offset + numbering.group_stride * np.arange(groups)
            assert np.array_equal(np.reshape(row["indices"], row["shape"]), ids)
