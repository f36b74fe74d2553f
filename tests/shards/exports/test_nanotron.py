import numpy as np
import pytest

from tests.shards.exports.conftest import exported, random_tokens
from vistok.errors import ShardError
from vistok.shards.exports import Nanotron, TokenNumbering


def read_back(folder):
    """Sequences by the description of the format."""
    size = int((folder / "tokens.ds.metadata").read_text().splitlines()[0].split("|")[-1])
    tokens = np.fromfile(folder / "tokens.ds", {2: "<u2", 4: "<u4"}[size])
    ends = np.fromfile(folder / "tokens.ds.index", "<u8").astype(np.int64)
    assert ends[-1] == len(tokens)
    return np.split(tokens, ends[:-1])


@pytest.mark.parametrize(("offset", "dtype"), [(0, np.uint16), (64_536, np.uint16), (64_537, np.uint32)])
def test_tokens_take_two_bytes_up_to_65536_ids(tokens_made, tmp_path, offset, dtype):
    exported(tokens_made, Nanotron(TokenNumbering(offset=offset)), tmp_path / "out")
    arrays = random_tokens()
    for sequence, key in zip(read_back(tmp_path / "out"), sorted(arrays), strict=True):
        assert sequence.dtype == dtype
        assert np.array_equal(sequence, arrays[key][:, 0] + offset)


def test_the_metadata_says_name_size_and_count(tokens_made, tmp_path):
    exported(tokens_made, Nanotron(), tmp_path / "out")
    assert (tmp_path / "out" / "tokens.ds.metadata").read_text() == "made|2\n112\n112 T"


def test_an_id_of_more_than_32_bits_is_refused(tokens_made, tmp_path):
    with pytest.raises(ShardError, match="nanotron holds ids below"):
        exported(tokens_made, Nanotron(TokenNumbering(offset=1 << 32)), tmp_path / "out")


@pytest.mark.parametrize(("offset", "size"), [(0, 2), (70_000, 4)])
def test_datatrove_reads_it(tokens_made, tmp_path, offset, size):
    datatrove = pytest.importorskip("datatrove.utils.dataset")
    exported(tokens_made, Nanotron(TokenNumbering(offset=offset, eos=offset + 1000)), tmp_path / "out")
    # its windows are one token longer than the context: an image and its eos
    read = datatrove.DatatroveFolderDataset(
        str(tmp_path / "out"), seq_len=16, filename_pattern="*.ds", token_size=size, return_positions=True
    )
    arrays = random_tokens()
    assert len(read) == 7
    for i, key in enumerate(sorted(arrays)):
        assert read[i]["input_ids"].tolist() == [*(arrays[key][:, 0] + offset), offset + 1000]
        assert read[i]["positions"].tolist() == list(range(17))
