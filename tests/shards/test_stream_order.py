import itertools

import numpy as np
import pytest
from torch.utils.data import DataLoader

from tests.shards.conftest import named
from vistok import shards
from vistok.errors import ShardError
from vistok.shards.stream_order import ShapeBatches

SIZES = {f"image_{i:04d}": size for i in range(50) for size in [((16, 16), (8, 24), (24, 8))[i * 7 % 11 % 3]]}


@pytest.fixture(scope="module", params=["arrow", "arrow-packed", "tar"])
def ragged(request, tokenizer, tmp_path_factory):
    out = tmp_path_factory.mktemp("ragged") / "o"
    shards.encode(
        tokenizer, named(50, sizes=SIZES), out, shard_size=4, container=request.param, progress=False
    )
    return shards.open(out)


def keys(batches):
    return [batch["key"] for batch in batches]


def loaded(stream, workers=0):
    return keys(DataLoader(stream, batch_size=None, collate_fn=shards.collate, num_workers=workers))


@pytest.mark.parametrize("shuffle", [False, True])
def test_each_batch_is_of_one_size_and_grid_and_all_samples_come_once(ragged, shuffle):
    stream = ragged.stream(batch_size=4, shuffle=shuffle)
    found = list(stream)
    assert len(found) == len(stream)
    assert sorted(itertools.chain.from_iterable(keys(found))) == ragged.keys()
    for batch in found:
        assert {SIZES[key] for key in batch["key"]} == {batch["size"]}
        assert batch["indices"].shape[:2] == (len(batch["key"]), np.prod(batch["grid"]))
    assert sum(len(batch["key"]) < 4 for batch in found) <= 3


@pytest.mark.parametrize("world", [1, 3])
def test_ranks_get_batches_of_one_shape_at_each_step(ragged, world):
    options = {"batch_size": 3, "shuffle": True, "world": world}
    parts = [list(ragged.stream(rank=rank, **options)) for rank in range(world)]
    for batches in zip(*parts, strict=True):
        assert len({(batch["size"], len(batch["key"])) for batch in batches}) == 1
    told = list(itertools.chain.from_iterable(itertools.chain.from_iterable(map(keys, parts))))
    assert len(set(told)) == len(told) > 50 - 3 * world


def test_batches_of_shapes_are_the_same_with_any_workers_and_go_on(ragged):
    def new(**options):
        return ragged.stream(batch_size=4, shuffle=True, seed=3, **options)

    whole = loaded(new())
    assert loaded(new(), 2) == whole
    assert keys(new(epoch=1)) != whole
    later = new()
    later.seek(5)
    assert loaded(later, 3) == whole[5:]
    stream = new()
    iterator = iter(stream)
    seen = keys(next(iterator) for _ in range(7))
    later = new()
    later.load_state_dict(stream.state_dict())
    assert seen + keys(later) == whole


def test_a_batch_of_chosen_items_of_several_sizes_names_the_remedy(ragged):
    with pytest.raises(ShardError, match=r"group them by .*stream\(batch_size"):
        list(DataLoader(ragged, batch_size=4, collate_fn=shards.collate))


@pytest.mark.parametrize(("batch_size", "world"), [(1, 1), (4, 1), (3, 2), (7, 4), (100, 3)])
def test_the_number_of_batches_is_known_without_an_order(batch_size, world):
    shapes = np.random.default_rng(0).integers(0, 5, 123).astype(np.int32)
    batches = ShapeBatches(shapes, batch_size, world)
    assert len(batches) == ShapeBatches.count(shapes, batch_size, world)
    taken = [batches.take(step, rank) for step in range(len(batches)) for rank in range(world)]
    assert all(len(set(shapes[places].tolist())) == 1 for places in taken)


def test_with_one_shape_batches_are_of_consecutive_samples():
    batches = ShapeBatches(np.zeros(22, dtype=np.int32), 4, 2)
    assert [batches.take(step, 1).tolist() for step in range(3)] == [
        [1, 3, 5, 7],
        [9, 11, 13, 15],
        [17, 19, 21],
    ]
