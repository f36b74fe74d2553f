import json
import pickle
from pathlib import Path

import pytest
from torch.multiprocessing.spawn import start_processes
from torch.utils.data import DataLoader

from tests.ranks import group
from tests.shards.conftest import named
from vistok.errors import ShardError
from vistok.shards import encode
from vistok.shards import open as open_shards
from vistok.shards.stream import ShardStream


class Numbers:
    def __getitem__(self, index):
        return {"number": index}

    def __getitems__(self, indices):
        return [self[int(index)] for index in indices]


COUNTS = [7, 0, 5, 9, 1]


def numbers(stream):
    return [item["number"] for item in stream]


def test_without_shuffling_the_order_is_that_of_the_plan():
    assert numbers(ShardStream(Numbers(), COUNTS)) == list(range(22))


@pytest.mark.parametrize("counts", [COUNTS, [3] * 50])
def test_shuffling_gives_each_sample_once_in_an_order_of_seed_and_epoch(counts):
    def order(**options):
        return numbers(ShardStream(Numbers(), counts, shuffle=True, **options))

    assert sorted(order()) == list(range(sum(counts)))
    assert order() == order()
    assert len({tuple(order()), tuple(order(seed=1)), tuple(order(epoch=1)), tuple(range(sum(counts)))}) == 4


@pytest.mark.parametrize("shuffle", [False, True])
def test_ranks_share_the_samples_evenly(shuffle):
    parts = [
        numbers(ShardStream(Numbers(), COUNTS, shuffle=shuffle, rank=rank, world=4)) for rank in range(4)
    ]
    assert [len(part) for part in parts] == [5, 5, 5, 5]
    assert len({number for part in parts for number in part}) == 20


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_share_the_samples_of_their_rank(workers):
    stream = ShardStream(Numbers(), COUNTS, shuffle=True, rank=1, world=2)
    loader = DataLoader(stream, batch_size=None, num_workers=workers)
    assert sorted(int(item["number"]) for item in loader) == sorted(numbers(stream))
    assert len(stream) == 11


def test_a_state_goes_on_where_it_was_taken():
    whole = numbers(ShardStream(Numbers(), COUNTS, shuffle=True, seed=3, epoch=2))
    for stop in (1, 10, 22):
        stream = ShardStream(Numbers(), COUNTS, shuffle=True, seed=3, epoch=2)
        iterator = iter(stream)
        seen = [next(iterator)["number"] for _ in range(stop)]
        later = ShardStream(Numbers(), COUNTS, shuffle=True, seed=3)
        later.load_state_dict(stream.state_dict())
        assert seen + numbers(later) == whole


def batches(stream):
    return [batch["number"].tolist() for batch in stream]


@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 3)])
def test_batches_hold_the_samples_in_their_order(rank, world):
    options = {"shuffle": True, "rank": rank, "world": world}
    found = batches(ShardStream(Numbers(), [3] * 50, batch_size=8, **options))
    assert [number for batch in found for number in batch] == numbers(
        ShardStream(Numbers(), [3] * 50, **options)
    )
    assert {len(batch) for batch in found[:-1]} == {8}
    assert len(found) == len(ShardStream(Numbers(), [3] * 50, batch_size=8, **options))


def loaded(stream, workers):
    return batches(DataLoader(stream, batch_size=None, num_workers=workers))


def test_any_number_of_workers_gives_the_same_batches_in_the_same_order():
    stream = ShardStream(Numbers(), COUNTS, shuffle=True, batch_size=4)
    assert loaded(stream, 0) == loaded(stream, 1) == loaded(stream, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loop_that_counts_its_batches_goes_on_with_other_workers(workers):
    whole = loaded(ShardStream(Numbers(), COUNTS, shuffle=True, batch_size=4, epoch=1), 1)
    stream = ShardStream(Numbers(), COUNTS, shuffle=True, batch_size=4)
    stream.set_epoch(1)
    stream.seek(3)
    assert loaded(stream, workers) == whole[3:]
    with pytest.raises(ShardError, match="has 6 steps"):
        stream.seek(7)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_torchdata_resumes_each_worker_where_it_was(workers, batch_size):
    loader = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader

    def new():
        stream = ShardStream(Numbers(), COUNTS, shuffle=True, seed=5, batch_size=batch_size)
        return loader(stream, batch_size=None, num_workers=workers)

    def told(items):
        return [item["number"] if batch_size is None else item["number"].tolist() for item in items]

    whole = told(new())
    for stop in (1, 4):
        first, seen = new(), []
        for item in first:
            seen.append(item)
            if len(seen) == stop:
                state = first.state_dict()
                break
        later = new()
        later.load_state_dict(state)
        assert told(seen) + told(later) == whole


@pytest.mark.parametrize("options", [{}, {"num_workers": 2, "persistent_workers": True}])
def test_a_pass_after_a_peek_is_whole(options):
    stream = ShardStream(Numbers(), COUNTS, shuffle=True, batch_size=4)
    loader = DataLoader(stream, batch_size=None, **options)
    first = next(iter(loader))["number"].tolist()
    found = batches(loader)
    assert found[0] == first
    assert sorted(number for batch in found for number in batch) == list(range(22))


def test_passes_that_overlap_have_places_of_their_own():
    stream = ShardStream(Numbers(), COUNTS)
    stream.seek(5)
    one, two = iter(stream), iter(stream)
    assert [next(one)["number"], next(one)["number"], next(two)["number"]] == [5, 6, 5]
    assert stream.state_dict()["done"] == 1
    assert numbers(stream) == list(range(5, 22))
    assert numbers(stream) == list(range(22))


def test_a_state_of_another_stream_is_refused_by_name():
    state = ShardStream(Numbers(), COUNTS, seed=3).state_dict()
    with pytest.raises(ShardError, match="seed"):
        ShardStream(Numbers(), COUNTS, seed=4).load_state_dict(state)


def test_a_state_of_other_shards_with_as_many_samples_is_refused(tmp_path, tokenizer, other_tokenizer):
    def stream(name, model, shard_size):
        encode(model, named(8), tmp_path / name, shard_size=shard_size, progress=False)
        return open_shards(tmp_path / name).stream()

    state = stream("a", tokenizer, 4).state_dict()
    with pytest.raises(ShardError, match="num_samples_of_shards"):
        stream("b", tokenizer, 2).load_state_dict(state)
    with pytest.raises(ShardError, match="fingerprint"):
        stream("c", other_tokenizer, 4).load_state_dict(state)


def test_a_rank_outside_the_world_is_refused():
    with pytest.raises(ShardError, match="rank 2"):
        ShardStream(Numbers(), COUNTS, rank=2, world=2)


def _numbers_of_a_rank(rank, streams, folder):
    with group(rank, 2, folder):
        found = [[numbers(stream), stream.rank, stream.world, len(stream)] for stream in streams]
        (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
        (Path(folder) / f"{rank}.pickle").write_bytes(pickle.dumps(streams))


def test_rank_and_world_are_those_of_the_group_when_a_pass_begins(tmp_path):
    streams = [ShardStream(Numbers(), COUNTS), ShardStream(Numbers(), COUNTS, rank=0, world=1)]
    start_processes(_numbers_of_a_rank, (streams, str(tmp_path)), nprocs=2, start_method="forkserver")
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        own, whole = list(range(rank, 22, 2)), list(range(22))
        assert found == [[own, rank, 2, 11], [whole, 0, 1, 22]]
        # as a worker of that rank gets them, which is in no group
        copies = pickle.loads((tmp_path / f"{rank}.pickle").read_bytes())
        assert [numbers(copy) for copy in copies] == [own, whole]
