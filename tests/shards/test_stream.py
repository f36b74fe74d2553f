import pytest
import torch
from torch.utils.data import DataLoader

from vistok.errors import ShardError
from vistok.shards.stream import ShardStream


class Numbers:
    def __getitem__(self, index):
        return {"number": index}


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


def test_a_state_of_another_stream_is_refused_by_name():
    state = ShardStream(Numbers(), COUNTS, seed=3).state_dict()
    with pytest.raises(ShardError, match="seed"):
        ShardStream(Numbers(), COUNTS, seed=4).load_state_dict(state)


def test_a_rank_outside_the_world_is_refused():
    with pytest.raises(ShardError, match="rank 2"):
        ShardStream(Numbers(), COUNTS, rank=2, world=2)


def test_rank_and_world_come_from_torch_distributed(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        stream = ShardStream(Numbers(), COUNTS)
        assert (stream.rank, stream.world) == (0, 1)
    finally:
        torch.distributed.destroy_process_group()
