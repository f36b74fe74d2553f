import pytest

from vistok.errors import ShardError
from vistok.shards.plan import Plan


def test_shards_are_fixed_slices_of_the_sorted_keys():
    plan = Plan.of(["c", "a", "e", "b", "d"], 2)
    assert plan.keys == ("a", "b", "c", "d", "e")
    assert [plan.numbers(i) for i in range(plan.num_shards)] == [range(0, 2), range(2, 4), range(4, 5)]
    assert plan.number("d") == 3


def test_the_order_of_the_keys_does_not_matter():
    assert Plan.of("cab", 2) == Plan.of("abc", 2)
    assert Plan.of("cab", 2).keys_hash == Plan.of("abc", 2).keys_hash


def test_a_key_given_twice_is_named():
    with pytest.raises(ShardError, match="'b'"):
        Plan.of(["b", "a", "b"], 2)


@pytest.mark.parametrize(("keys", "size"), [([], 1), (["a"], 0)])
def test_an_empty_dataset_and_empty_shards_are_refused(keys, size):
    with pytest.raises(ShardError):
        Plan.of(keys, size)


def test_json_keeps_every_kind_of_key():
    plan = Plan.of(["a\nb", "../x", "\udcff", "é", "e\u0301", "", " ", "k" * 300], 3)
    assert Plan.from_json(plan.to_json()) == plan


def test_an_unknown_key_is_a_key_error():
    with pytest.raises(KeyError):
        Plan.of("ac", 2).number("b")


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "{", '{"shard_size": 1, "keys": ["b", "a"]}', '{"shard_size": "1", "keys": ["a"]}',
     '{"shard_size": 1, "keys": [1]}', "[" * 100_000],
)  # fmt: skip
def test_a_damaged_plan_is_a_shard_error(text):
    with pytest.raises(ShardError):
        Plan.from_json(text)


def test_a_hundred_thousand_keys_are_planned():
    plan = Plan.of((f"{i:06d}" for i in reversed(range(100_000))), 1000)
    assert plan.num_shards == 100
    assert Plan.from_json(plan.to_json()).keys_hash == plan.keys_hash
