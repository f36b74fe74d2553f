from hypothesis import given
from hypothesis import strategies as st

from vistok.shards.batching import MAX_WAITING_BATCHES, same_size_batches


@given(st.lists(st.integers(0, 9)), st.integers(1, 5))
def test_each_item_is_in_one_batch_of_its_size_in_order(sizes, batch_size):
    items = list(enumerate(sizes))
    batches = list(same_size_batches(items, lambda item: item[1], batch_size))
    assert sorted(item for batch in batches for item in batch) == items
    for batch in batches:
        assert len(batch) <= batch_size
        assert len({size for _, size in batch}) == 1
        assert batch == sorted(batch)


def test_items_of_many_sizes_do_not_pile_up():
    taken = []
    batches = same_size_batches((taken.append(i) or i for i in range(100)), lambda item: item, 2)
    for given_so_far, _ in enumerate(batches):
        assert len(taken) - given_so_far <= 2 * MAX_WAITING_BATCHES
