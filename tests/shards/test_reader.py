import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.shards.conftest import named
from vistok import shards
from vistok.bench.reading import write_shards
from vistok.errors import ShardError
from vistok.shards.container import Sample


@pytest.fixture(scope="module", params=["tar", "arrow", "arrow-packed"])
def made(request, tokenizer, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "out"
    images = named(30, fields={f"image_{i:04d}": {"label": i, "caption": f"number {i}"} for i in range(30)})
    shards.encode(tokenizer, images, out, container=request.param, shard_size=7, progress=False)
    return out


def test_samples_are_found_by_position_and_by_key(made):
    tokens = shards.open(made)
    assert len(tokens) == 30
    for i in (0, 6, 7, 29):
        assert tokens[i]["label"] == i
        assert tokens[f"image_{i:04d}"]["label"] == i
    assert tokens[-1]["label"] == 29
    assert [item["label"] for item in tokens] == list(range(30))


def test_positions_and_keys_that_are_not_there_are_refused(made):
    tokens = shards.open(made)
    for index in (30, -31):
        with pytest.raises(IndexError):
            tokens[index]
    with pytest.raises(KeyError):
        tokens["nobody"]


def test_only_the_tokenizer_that_made_the_shards_is_accepted(made, tokenizer, other_tokenizer, continuous):
    shards.open(made, tokenizer)
    with pytest.raises(ShardError, match="made by another tokenizer: weights_hash"):
        shards.open(made, other_tokenizer)
    with pytest.raises(ShardError, match=r"model\.quantizer"):
        shards.open(made).check(continuous)


def test_a_collated_batch_is_what_encode_gives(made, tokenizer):
    tokens = shards.open(made)
    batch = shards.collate([tokens[i] for i in range(4)])
    assert batch["label"].tolist() == [0, 1, 2, 3]
    assert batch["caption"][2] == "number 2"
    images = named(30)
    expected = tokenizer.encode(torch.stack([images[i]["image"] for i in range(4)]))
    encoded = shards.to_encoded(batch, tokens.spec)
    assert torch.equal(encoded.indices, expected.indices)
    assert (encoded.grid, encoded.size, list(encoded)) == (expected.grid, expected.size, list(expected))
    assert torch.equal(tokenizer.decode(encoded), tokenizer.decode(expected))


def test_a_batch_of_several_sizes_is_refused(tokenizer, tmp_path):
    shards.encode(tokenizer, named(2, sizes={"image_0001": (8, 16)}), tmp_path / "out", progress=False)
    with pytest.raises(ShardError, match="group them by"):
        shards.collate(list(shards.open(tmp_path / "out")))


@pytest.mark.parametrize(("start", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_read_the_same_samples(made, start, workers):
    tokens = shards.open(made)
    assert tokens[0]["label"] == 0
    loader = DataLoader(
        tokens, batch_size=8, num_workers=workers, collate_fn=shards.collate, multiprocessing_context=start
    )
    assert torch.cat([batch["label"] for batch in loader]).tolist() == list(range(30))


def test_a_dataset_survives_pickling(made):
    tokens = shards.open(made)
    assert tokens[3]["label"] == 3
    assert pickle.loads(pickle.dumps(tokens))[3]["label"] == 3


def test_an_unfinished_output_is_read_with_a_warning(tokenizer, tmp_path):
    out = tmp_path / "out"
    broken = named(8, broken={"image_0005": OSError("gone")})
    with pytest.raises(ShardError):
        shards.encode(tokenizer, broken, out, shard_size=4, progress=False)
    with pytest.warns(UserWarning, match="only 1 of 2 shards"):
        tokens = shards.open(out)
    assert tokens.keys() == [f"image_{i:04d}" for i in range(4)]


@pytest.mark.parametrize("container", ["tar", "arrow"])
def test_an_index_outside_the_codebook_is_refused(tokenizer, tmp_path, container):
    out = tmp_path / "out"
    shards.encode(tokenizer, named(3), out, container=container, progress=False)
    (path,) = out.glob(f"shard-000000.{container}")
    data = bytearray(path.read_bytes())
    data[data.index(bytes(shards.open(out)[1]["indices"].flatten().tolist()))] = 255
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"image_0001.*outside the codebook of 200"):
        shards.open(out)[1]
    with pytest.raises(ShardError, match=r"image_0001.*outside the codebook of 200"):
        shards.open(out).__getitems__([2, 1, 0])
    assert shards.open(out)[2]["key"] == "image_0002"


@pytest.mark.parametrize("order", [[3], [29, 0, 7, 7, 6, 28], list(range(30)), [-1, -30]])
def test_items_read_together_are_those_read_alone(made, order):
    tokens = shards.open(made)
    rows = tokens.__getitems__(order)
    alone = [tokens[i] for i in order]
    assert len(rows) == len(order)
    for together, item in zip(rows, alone, strict=True):
        assert torch.equal(together.pop("indices"), item["indices"])
        assert together == {name: value for name, value in item.items() if name != "indices"}
    batch, expected = shards.collate(rows), shards.collate(alone)
    assert batch.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(batch[name], value) if isinstance(value, torch.Tensor) else batch[name] == value
    assert [item["key"] for item in rows[1:]] == [item["key"] for item in alone[1:]]


def test_labels_that_no_tensor_holds_stay_a_list(tokenizer, tmp_path):
    labels = [1 << 63, 5, -(1 << 63)]
    images = named(3, fields={f"image_{i:04d}": {"label": label} for i, label in enumerate(labels)})
    shards.encode(tokenizer, images, tmp_path / "out", progress=False)
    tokens = shards.open(tmp_path / "out")
    assert shards.collate(tokens.__getitems__([0, 1, 2]))["label"] == labels
    assert shards.collate([tokens[0], tokens[1]])["label"] == labels[:2]
    assert shards.collate(tokens.__getitems__([1, 2]))["label"].tolist() == labels[1:]


def test_a_stream_of_another_name_is_named_by_batches_themselves(made, tokenizer, tmp_path):
    spec = tokenizer.spec
    renamed = replace(spec, streams=(replace(spec.main, name="semantic"),))
    samples = [
        Sample(i, {"semantic": np.full((4, 1), i, np.uint8)}, {"key": str(i), "size": [16, 16], "grid": {"semantic": [2, 2]}})
        for i in range(3)
    ]  # fmt: skip
    write_shards(tmp_path / "out", "arrow", samples, renamed, 2)
    tokens = shards.open(tmp_path / "out")
    for batch in (shards.collate([tokens[0], tokens[2]]), *tokens.stream(batch_size=2)):
        assert list(shards.to_encoded(batch)) == ["semantic"]
    assert "streams" not in shards.open(made)[0]
