import numpy as np
import pytest

from vistok.errors import ShardError
from vistok.shards.exports import TokenNumbering
from vistok.shards.exports.numbering import narrowest
from vistok.spec import StreamSpec

INDICES = np.array([[0, 1], [2, 3], [4, 5]])


def stream(codebook_size=1000, num_groups=1):
    return StreamSpec(codebook_size=codebook_size, num_groups=num_groups)


def test_specials_stand_around_the_image_in_their_order():
    numbering = TokenNumbering(offset=100, bos=1, boi=2, eoi=3, eos=4)
    assert numbering.sequence(INDICES[:, :1]).tolist() == [1, 2, 100, 102, 104, 3, 4]


def test_nothing_is_added_that_was_not_asked_for():
    assert TokenNumbering().sequence(INDICES[:, :1]).tolist() == [0, 2, 4]


def test_groups_are_ordered_and_moved_as_the_caller_says():
    assert TokenNumbering(group_order="position").sequence(INDICES).tolist() == [0, 1, 2, 3, 4, 5]
    assert TokenNumbering(group_order="group").sequence(INDICES).tolist() == [0, 2, 4, 1, 3, 5]
    moved = TokenNumbering(group_order="group", group_stride=10, offset=100)
    assert moved.sequence(INDICES).tolist() == [100, 102, 104, 111, 113, 115]


def test_several_groups_without_an_order_are_refused():
    with pytest.raises(ShardError, match="--group-order position or group"):
        TokenNumbering().check(stream(num_groups=4), "megatron")


def test_the_vocabulary_is_the_least_that_holds_all_ids_unless_it_is_given():
    assert TokenNumbering().check(stream(), "x") == 1000
    assert (
        TokenNumbering(offset=500, group_stride=1000, group_order="group").check(stream(num_groups=3), "x")
        == 3500
    )
    assert TokenNumbering(eos=1000).check(stream(), "x") == 1001
    assert TokenNumbering(vocab_size=5000).check(stream(), "x") == 5000


@pytest.mark.parametrize(
    ("numbering", "told"),
    [
        (TokenNumbering(eos=999), "eos 999 lies among the image tokens"),
        (TokenNumbering(offset=10, bos=10), "bos 10 lies among"),
        (TokenNumbering(vocab_size=999), "--vocab-size 1000"),
        (TokenNumbering(offset=-1), "offset is -1"),
        (TokenNumbering(eos=-1), "eos is -1"),
        (TokenNumbering(offset=1 << 63), "64 bits"),
    ],
)
def test_ids_that_cannot_be_are_refused(numbering, told):
    with pytest.raises(ShardError, match=told):
        numbering.check(stream(), "x")


def test_specials_are_refused_where_they_have_no_place():
    with pytest.raises(ShardError, match="no place for special tokens: leave out bos, eos"):
        TokenNumbering(bos=2000, eos=2001).check(stream(), "llamagen", specials=False)


def test_the_type_is_the_narrowest_that_holds_the_vocabulary():
    limits = {"uint16": 65_499, "int32": 1 << 31}
    assert narrowest(65_499, limits, "x") == np.uint16
    assert narrowest(65_500, limits, "x") == np.int32
    with pytest.raises(ShardError, match="smaller --offset"):
        narrowest((1 << 31) + 1, limits, "x")
