import itertools
import json

import numpy as np
import pytest

from tests.shards.exports.conftest import exported, random_tokens
from vistok.errors import ShardError
from vistok.shards.exports import LitData, TokenNumbering

litdata = pytest.importorskip("litdata")


def read_back(folder, dtype):
    """Items of all chunks by the description of the format: a count, offsets, and the items."""
    for chunk in json.loads((folder / "index.json").read_text())["chunks"]:
        data = (folder / chunk["filename"]).read_bytes()
        offsets = np.frombuffer(data, "<u4", chunk["chunk_size"] + 1, 4)
        assert (int.from_bytes(data[:4], "little"), offsets[-1]) == (chunk["chunk_size"], len(data))
        for start, end in itertools.pairwise(offsets):
            yield np.frombuffer(data[start:end], dtype)


@pytest.mark.parametrize(
    ("offset", "dtype"), [(0, "<u2"), (64_536, "<u2"), (64_537, "<i4"), (1 << 40, "<i8")]
)
def test_chunks_hold_the_tokens_in_the_narrowest_type_that_it_reads(tokens_made, tmp_path, offset, dtype):
    exported(tokens_made, LitData(TokenNumbering(offset=offset)), tmp_path / "out")
    for read, array in zip(read_back(tmp_path / "out", dtype), random_tokens().values(), strict=True):
        assert np.array_equal(read, array[:, 0] + offset)


@pytest.mark.parametrize(("offset", "chunk_bytes"), [(0, 64_000_000), (70_000, 200)])
def test_its_streaming_dataset_gives_an_image_a_block(tokens_made, tmp_path, offset, chunk_bytes):
    numbering = TokenNumbering(offset=offset, bos=offset + 1000)
    exported(tokens_made, LitData(numbering, chunk_bytes=chunk_bytes), tmp_path / "out")
    read = litdata.StreamingDataset(str(tmp_path / "out"), item_loader=litdata.TokensLoader(block_size=17))
    assert len(read) == 7
    for i, array in enumerate(random_tokens().values()):
        assert read[i].tolist() == [offset + 1000, *(array[:, 0] + offset)]


def test_a_chunk_of_no_bytes_is_refused(tokens_made, tmp_path):
    with pytest.raises(ShardError, match="--chunk-bytes"):
        exported(tokens_made, LitData(chunk_bytes=0), tmp_path / "out")
