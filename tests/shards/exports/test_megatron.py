import io
import struct

import numpy as np
import pytest

from tests.shards.exports.conftest import discrete, exported, random_tokens, write_shards
from vistok.errors import ShardError
from vistok.shards.exports import Megatron, TokenNumbering
from vistok.shards.exports.megatron import write_index


def read_back(folder):
    """Sequences by the description of the format; checks that every byte of the index is accounted for."""
    data = (folder / "tokens.idx").read_bytes()
    magic, version, code, sequences, documents = struct.unpack_from("<9sQBQQ", data)
    assert (magic, version, documents) == (b"MMIDIDX\0\0", 1, sequences + 1)
    dtype = {8: "<u2", 4: "<i4"}[code]
    lengths = np.frombuffer(data, "<i4", sequences, 34)
    pointers = np.frombuffer(data, "<i8", sequences, 34 + 4 * sequences)
    ends = np.frombuffer(data, "<i8", documents, 34 + 12 * sequences)
    assert len(data) == 34 + 12 * sequences + 8 * documents
    assert ends.tolist() == list(range(documents))
    tokens = (folder / "tokens.bin").read_bytes()
    assert len(tokens) == lengths.sum() * np.dtype(dtype).itemsize
    return [np.frombuffer(tokens, dtype, n, p) for n, p in zip(lengths, pointers, strict=True)]


def test_the_bytes_of_an_index_are_these():
    file = io.BytesIO()
    write_index(file, [3, 5], np.dtype("uint16"))
    assert file.getvalue().hex(" ") == (
        "4d 4d 49 44 49 44 58 00 00 01 00 00 00 00 00 00 00 08 "
        "02 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00 "
        "03 00 00 00 05 00 00 00 "
        "00 00 00 00 00 00 00 00 06 00 00 00 00 00 00 00 "
        "00 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00"
    )


def test_pointers_go_on_from_piece_to_piece(monkeypatch):
    whole, pieces = io.BytesIO(), io.BytesIO()
    write_index(whole, list(range(1, 20)), np.dtype("int32"))
    monkeypatch.setattr("vistok.shards.exports.megatron._CHUNK", 4)
    write_index(pieces, list(range(1, 20)), np.dtype("int32"))
    assert whole.getvalue() == pieces.getvalue()


@pytest.mark.parametrize(("offset", "dtype"), [(64_499, np.uint16), (64_500, np.int32)])
def test_tokens_take_two_bytes_only_below_megatrons_limit(tokens_made, tmp_path, offset, dtype):
    exported(tokens_made, Megatron(TokenNumbering(offset=offset)), tmp_path / "out")
    arrays = random_tokens()
    for sequence, key in zip(read_back(tmp_path / "out"), sorted(arrays), strict=True):
        assert sequence.dtype == dtype
        assert np.array_equal(sequence, arrays[key][:, 0] + offset)


def test_the_vocabulary_of_the_model_decides_though_the_ids_are_small(tokens_made, tmp_path):
    exported(tokens_made, Megatron(TokenNumbering(vocab_size=65_500)), tmp_path / "out")
    assert read_back(tmp_path / "out")[0].dtype == np.int32


def test_an_id_of_more_than_31_bits_is_refused(tokens_made, tmp_path):
    with pytest.raises(ShardError, match="holds ids below 2147483648"):
        exported(tokens_made, Megatron(TokenNumbering(offset=(1 << 31) - 999)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_residual_stages_become_one_sequence(tmp_path):
    arrays = random_tokens(groups=4, codebook_size=10)
    made = write_shards(tmp_path / "made", arrays, discrete(10, num_groups=4))
    exported(made, Megatron(TokenNumbering(group_order="group", group_stride=10, eos=40)), tmp_path / "out")
    for sequence, key in zip(read_back(tmp_path / "out"), sorted(arrays), strict=True):
        assert sequence[-1] == 40
        assert np.array_equal(sequence[:-1].reshape(4, 16).T, arrays[key] + 10 * np.arange(4))


@pytest.mark.parametrize("offset", [0, 70_000])
def test_megatron_core_reads_it(tokens_made, tmp_path, offset):
    dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    exported(tokens_made, Megatron(TokenNumbering(offset=offset, eos=offset + 1000)), tmp_path / "out")
    read = dataset.IndexedDataset(str(tmp_path / "out" / "tokens"))
    arrays = random_tokens()
    assert len(read) == 7 and read.document_indices.tolist() == list(range(8))
    for i, key in enumerate(sorted(arrays)):
        assert read[i].tolist() == [*(arrays[key][:, 0] + offset), offset + 1000]
