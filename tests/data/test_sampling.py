import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vistok.data import EpochOrder, PositionSampler, Procedural, Shuffled
from vistok.errors import DataError


@settings(max_examples=50, deadline=None)
@given(batch=st.integers(1, 5), world=st.integers(1, 4), start=st.integers(0, 1000), steps=st.integers(0, 4))
def test_ranks_together_cover_consecutive_positions(batch, world, start, steps):
    ranks = [list(PositionSampler(batch, rank, world, start, steps)) for rank in range(world)]
    joined = [p for step in range(steps) for rank in ranks for p in rank[step]]
    assert joined == list(range(start, start + steps * batch * world))


@settings(max_examples=50, deadline=None)
@given(before=st.integers(0, 10), after=st.integers(1, 10))
def test_a_resumed_stream_goes_on_exactly(before, after):
    whole = list(PositionSampler(3, 1, 2, num_batches=before + after))
    first = PositionSampler(3, 1, 2)
    state = first.state_dict(before)
    second = PositionSampler(3, 1, 2, num_batches=after)
    second.load_state_dict(state)
    assert whole[before:] == list(second)
    again = second.state_dict(after)
    assert again == {"position": (before + after) * 6}


def test_resuming_on_other_ranks_keeps_the_global_batches():
    state = PositionSampler(4, 0, 1).state_dict(5)
    ranks = [PositionSampler(2, rank, 2, num_batches=1) for rank in range(2)]
    for sampler in ranks:
        sampler.load_state_dict(state)
    assert [p for s in ranks for batch in s for p in batch] == [20, 21, 22, 23]


def test_an_endless_sampler_has_no_length():
    sampler = PositionSampler(2)
    assert list(itertools.islice(sampler, 3)) == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(TypeError, match="num_batches"):
        len(sampler)
    assert len(PositionSampler(2, num_batches=7)) == 7


@pytest.mark.parametrize("arguments", [(0,), (1, 2, 2), (1, -1, 1), (1, 0, 1, -1)])
def test_impossible_samplers_are_refused(arguments):
    with pytest.raises(DataError, match="make no batches"):
        PositionSampler(*arguments)


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 50), seed=st.integers(0, 2**40), epoch=st.integers(0, 5))
def test_every_epoch_visits_every_index_once(length, seed, epoch):
    order = EpochOrder(length, seed)
    visited = [order[epoch * length + i] for i in range(length)]
    assert sorted(visited) == list(range(length))
    assert visited == [EpochOrder(length, seed)[epoch * length + i] for i in range(length)]


def test_the_order_is_the_same_on_every_machine():
    order = EpochOrder(8, seed=3)
    assert [order[i] for i in range(16)] == [0, 4, 7, 1, 5, 6, 3, 2, 7, 3, 5, 1, 2, 4, 6, 0]


def test_epochs_and_seeds_differ():
    orders = {tuple(EpochOrder(20, seed).permutation(epoch)) for seed in (0, 1, 2**32) for epoch in range(3)}
    assert len(orders) == 9


def test_shuffled_gives_items_of_the_dataset_without_end():
    dataset = Procedural(3, 8)
    shuffled = Shuffled(dataset, seed=1)
    assert sorted(shuffled[i]["key"] for i in range(300, 303)) == dataset.keys()
    with pytest.raises(IndexError, match="negative"):
        shuffled[-1]
    with pytest.raises(DataError, match="no length"):
        Shuffled(iter([]))
