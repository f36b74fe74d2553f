"""Integers in fewer bits than a byte allows: value i of a row fills bits [i * bits, (i + 1) * bits), low bits first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def bits_for(codebook_size: int) -> int:
    """ceil(log2 K), the bits of an index in [0, K); 1 for a single code."""
    return max(1, (codebook_size - 1).bit_length())


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of a row of ``count`` values: each row starts at a byte of its own."""
    return -(-count * bits // 8)


def pack(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Unsigned values (B, n) below 2^bits -> rows of bytes (B, ceil(n * bits / 8)); bits that are left over are zero."""
    rows, count = values.shape
    # eight values fill `bits` whole bytes, so the same shifts serve every group of eight
    groups = -(-count // 8)
    padded = np.zeros((rows, groups * 8), dtype=values.dtype)
    padded[:, :count] = values
    octets = padded.reshape(rows, groups, 8)
    packed = np.zeros((rows, groups, bits), dtype=np.uint8)
    for place, byte, shift in _overlaps(bits):
        column = octets[:, :, place]
        packed[:, :, byte] |= (column >> shift if shift >= 0 else column << -shift).astype(np.uint8)
    return packed.reshape(rows, groups * bits)[:, : packed_bytes(count, bits)]


def unpack(data: NDArray[np.uint8], bits: int, count: int, dtype: Any) -> NDArray[Any]:
    """The first ``count`` values of each row that ``pack`` made: (B, >= ceil(count * bits / 8)) -> (B, count)."""
    rows, groups = len(data), -(-count // 8)
    if not count:
        return np.empty((rows, 0), dtype=dtype)
    stride = groups * bits + 8  # the last window of eight bytes may reach beyond the row
    padded = np.zeros((rows, stride), dtype=np.uint8)
    filled = min(data.shape[1], groups * bits)
    padded[:, :filled] = data[:, :filled]
    values = np.empty((rows, groups, 8), dtype=dtype)
    for place in range(8):
        byte, shift = divmod(place * bits, 8)
        window = np.ndarray((rows, groups), "<u8", padded, byte, (stride, bits)) >> np.uint64(shift)
        if shift + bits > 64:
            beyond = np.ndarray((rows, groups), "u1", padded, byte + 8, (stride, bits)).astype(np.uint64)
            window |= beyond << np.uint64(64 - shift)
        values[:, :, place] = window & np.uint64((1 << bits) - 1)
    return values.reshape(rows, groups * 8)[:, :count]


def _overlaps(bits: int) -> Iterator[tuple[int, int, int]]:
    """Value and byte of a group of eight that share bits, and by how far the byte lies above the value's lowest bit."""
    for place in range(8):
        start = place * bits
        for byte in range(start // 8, (start + bits - 1) // 8 + 1):
            yield place, byte, byte * 8 - start
