import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vistok.quantizers.index_codec import (
    join_index,
    labels_to_parts,
    pack_bits,
    pack_digits,
    parts_to_labels,
    split_index,
    unpack_bits,
    unpack_digits,
)

orders = st.sampled_from(["least", "most"])


@st.composite
def radices_and_index(draw):
    radices = draw(st.lists(st.integers(1, 2000), min_size=1, max_size=12))
    while math.prod(radices) > 2**62:
        radices.pop()
    # hypothesis shrinks towards 0, the interesting end is the largest
    return radices, math.prod(radices) - 1 - draw(st.integers(0, math.prod(radices) - 1))


@settings(max_examples=150, deadline=None)
@given(radices_and_index(), orders)
def test_digits_are_those_of_python_integers_and_come_back(case, first):
    radices, index = case
    digits = unpack_digits(torch.tensor([index]), radices, first)
    expected, rest = [], index
    for radix in radices if first == "least" else reversed(radices):
        expected.append(rest % radix)
        rest //= radix
    assert digits[0].tolist() == (expected if first == "least" else expected[::-1])
    assert pack_digits(digits, radices, first).tolist() == [index]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 62).flatmap(lambda d: st.tuples(st.just(d), st.integers(0, 2**d - 1))), orders)
def test_bits_are_the_binary_digits_and_come_back(case, first):
    num_bits, index = case
    text = format(index, f"0{num_bits}b")
    bits = unpack_bits(torch.tensor(index), num_bits, first)
    assert "".join(map(str, bits.tolist())) == (text if first == "most" else text[::-1])
    assert int(pack_bits(bits, first)) == index


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_labels_of_any_length_come_back_from_their_parts(sizes, random):
    labels = torch.tensor([[random.randint(0, 1) for _ in range(sum(sizes))] for _ in range(3)])
    parts = labels_to_parts(labels, sizes)
    assert parts.shape == (3, len(sizes)) and torch.equal(parts_to_labels(parts, sizes), labels)
    text = "".join(map(str, labels[0].tolist()))
    assert int(parts[0, 0]) == int(text[: sizes[0]], 2)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**18 - 1))
def test_18_bits_split_into_6_and_12_and_join(index):
    parts = split_index(torch.tensor([index]), (6, 12))
    assert parts.tolist() == [[index >> 12, index & 4095]]
    assert join_index(parts, (6, 12)).tolist() == [index]


def test_a_parent_and_a_child_make_h_of_i_times_m_plus_j():
    assert pack_digits(torch.tensor([[7, 3], [0, 11]]), (16384, 12), "most").tolist() == [7 * 12 + 3, 11]


def test_the_largest_index_is_exact():
    assert int(pack_bits(torch.ones(62, dtype=torch.int64))) == 2**62 - 1
    assert unpack_digits(torch.tensor(2**62 - 1), [2**31, 2**31]).tolist() == [2**31 - 1] * 2


def test_half_precision_never_enters_the_arithmetic():
    # summing 18 bits in bfloat16 or float16 goes wrong for almost every index; integers are asked for instead
    with pytest.raises(ValueError, match="not integers"):
        pack_digits(torch.ones(3, 18, dtype=torch.bfloat16), [2] * 18)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pack_digits(torch.tensor([3]), [3]), "outside its radix"),
        (lambda: pack_digits(torch.tensor([0, 0]), [3]), "last dimension must be 1"),
        (lambda: unpack_digits(torch.tensor(6), [2, 3]), r"index 6 is outside \[0, 6\)"),
        (lambda: unpack_digits(torch.tensor(-1), [2, 3]), "outside"),
        (lambda: unpack_bits(torch.tensor(0), 63), r"2\^62"),
        (lambda: pack_digits(torch.tensor([0]), [0]), "at least 1"),
        (lambda: pack_digits(torch.tensor([0]), [2], "first"), "least"),
        (lambda: labels_to_parts(torch.zeros(3, dtype=torch.int64), (2, 2)), "3 bit labels"),
        (lambda: parts_to_labels(torch.zeros(3, dtype=torch.int64), (2, 2)), "3 parts"),
    ],
)
def test_wrong_calls_are_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()
