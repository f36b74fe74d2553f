import json

import pytest

from tests.shards.exports.conftest import discrete, exported, random_tokens, write_shards
from vistok.errors import ShardError
from vistok.shards.exports import TiTok, TokenNumbering


def read_back(folder):
    return [json.loads(line) for line in (folder / "pretokenized.jsonl").read_text().splitlines()]


def test_a_line_holds_the_class_and_the_tokens_of_a_sample(tokens_made, tmp_path):
    exported(tokens_made, TiTok(), tmp_path / "out")
    arrays = random_tokens()
    assert read_back(tmp_path / "out") == [
        {"class_id": i, "tokens": arrays[key][:, 0].tolist()} for i, key in enumerate(sorted(arrays))
    ]


def test_the_bytes_of_a_line_are_these(tmp_path):
    made = write_shards(tmp_path / "made", {"a": [[1], [2]]}, discrete(), {"a": {"label": 207}})
    exported(made, TiTok(TokenNumbering(offset=10)), tmp_path / "out")
    assert (
        tmp_path / "out" / "pretokenized.jsonl"
    ).read_bytes() == b'{"class_id": 207, "tokens": [11, 12]}\n'


def test_a_missing_label_is_refused_by_name_or_given(tmp_path):
    made = write_shards(tmp_path / "made", {"a": [[1]], "b": [[2]]}, discrete(), {"a": {"label": 1}})
    with pytest.raises(ShardError, match=r"'b' has no label.*--default-label"):
        exported(made, TiTok(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    exported(made, TiTok(default_label=1000), tmp_path / "out")
    assert [line["class_id"] for line in read_back(tmp_path / "out")] == [1, 1000]
