import numpy as np
import pytest

from vistok.shards.bit_packing import bits_for, pack, packed_bytes, unpack


@pytest.mark.parametrize(
    ("codes", "bits"), [(1, 1), (2, 1), (3, 2), (200, 8), (256, 8), (257, 9), (2**62, 62)]
)
def test_an_index_takes_the_bits_of_the_highest_one(codes, bits):
    assert bits_for(codes) == bits


@pytest.mark.parametrize("bits", range(1, 65))
def test_values_come_back_as_they_were(bits):
    dice = np.random.default_rng(bits)
    dtype = f"uint{next(size for size in (8, 16, 32, 64) if size >= bits)}"
    for count in (0, 1, 7, 8, 9, 64):
        values = dice.integers(0, 2**bits, (3, count), dtype=np.uint64).astype(dtype)
        values[:, : count // 2] = 2**bits - 1
        packed = pack(values, bits)
        assert packed.shape == (3, packed_bytes(count, bits))
        np.testing.assert_array_equal(unpack(packed, bits, count, dtype), values)


def test_low_bits_come_first_and_what_is_left_over_is_zero():
    assert pack(np.array([[0b101, 0b011, 0b111]], np.uint8), 3).tolist() == [[0b11011101, 0b1]]
