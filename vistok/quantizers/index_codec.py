"""Integer codes of indices: mixed radix, bits, sub-tokens; int64 throughout, exact to 2^62, bit labels beyond."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Order = Literal["least", "most"]

MAX_BITS = 62


def place_values(radices: Sequence[int], first: Order = "least") -> list[int]:
    """What one step of each digit adds to the index.

    Args:
        radices: Values per digit, each at least 1; their product at most 2^62.
        first: Whether the first digit is the ``least`` significant (FSQ) or the ``most`` (bits, sub-tokens).

    Raises:
        ValueError: no radix, one below 1, a product above 2^62, or another order.
    """
    if len(radices) == 0 or min(radices) < 1:
        raise ValueError(f"radices are {list(radices)}, there must be at least one and each at least 1")
    if math.prod(radices) > 1 << MAX_BITS:
        raise ValueError(
            f"radices make {math.prod(radices)} indices, at most 2^62 fit an int64: keep digits or bit labels instead"
        )
    if first not in ("least", "most"):
        raise ValueError(f"first is {first!r}, it must be 'least' or 'most'")
    if first == "least":
        return [math.prod(radices[:at]) for at in range(len(radices))]
    return [math.prod(radices[at + 1 :]) for at in range(len(radices))]


def pack_digits(digits: Tensor, radices: Sequence[int], first: Order = "least") -> Tensor:
    """Digits to one index each: with ``first="most"`` and radices (K, m), h = i * m + j.

    Shapes:
        digits (..., D) integers, D = len(radices) -> (...) int64 in [0, prod(radices)).

    Raises:
        ValueError: another number of digits, or (on the CPU) a digit outside its radix.
    """
    bases = _row(place_values(radices, first), digits)
    digits = _integers(digits, "digits")
    if digits.ndim == 0 or digits.shape[-1] != len(radices):
        raise ValueError(
            f"digits have shape {tuple(digits.shape)}, the last dimension must be {len(radices)}"
        )
    if _can_look(digits) and bool(((digits < 0) | (digits >= _row(radices, digits))).any()):
        raise ValueError(f"a digit is outside its radix of {list(radices)}")
    return (digits * bases).sum(dim=-1)


def unpack_digits(indices: Tensor, radices: Sequence[int], first: Order = "least") -> Tensor:
    """Inverse of ``pack_digits``: (...) in [0, prod(radices)) -> (..., D) int64.

    Raises:
        ValueError: on the CPU, an index outside the range.
    """
    bases = _row(place_values(radices, first), indices)
    indices = _integers(indices, "indices")
    size = math.prod(radices)
    if _can_look(indices):
        low, high = (int(value) for value in torch.aminmax(indices))
        if low < 0 or high >= size:
            raise ValueError(f"index {low if low < 0 else high} is outside [0, {size})")
    return indices.unsqueeze(-1) // bases % _row(radices, indices)


def pack_bits(bits: Tensor, first: Order = "most") -> Tensor:
    """Bit labels to indices: (..., d) of 0 and 1 -> (...) int64 in [0, 2^d), d at most 62.

    Raises:
        ValueError: more than 62 bits, or (on the CPU) a label that is not 0 or 1.
    """
    return pack_digits(bits.to(torch.int64), [2] * bits.shape[-1], first)


def unpack_bits(indices: Tensor, num_bits: int, first: Order = "most") -> Tensor:
    """Indices to bit labels: (...) in [0, 2^d) -> (..., d) int64 of 0 and 1.

    Raises:
        ValueError: more than 62 bits, or (on the CPU) an index outside the range.
    """
    return unpack_digits(indices, [2] * num_bits, first)


def split_index(indices: Tensor, sizes: Sequence[int]) -> Tensor:
    """Factorises an index of sum(sizes) bits into sub-tokens, most significant first.

    Source: Luo et al., Open-MAGVIT2 (2024), arXiv:2409.04410, section 3.2: ``(6, 12)`` of 18 bits.

    Shapes:
        indices (...) in [0, 2^sum(sizes)) -> (..., len(sizes)), the s-th in [0, 2^sizes[s]).
    """
    return unpack_digits(indices, [1 << size for size in sizes], "most")


def join_index(parts: Tensor, sizes: Sequence[int]) -> Tensor:
    """Inverse of ``split_index``: (..., len(sizes)) -> (...)."""
    return pack_digits(parts, [1 << size for size in sizes], "most")


def labels_to_parts(labels: Tensor, sizes: Sequence[int]) -> Tensor:
    """Bit labels of any length as several indices, so that codes above 62 bits have integers too.

    Shapes:
        labels (..., sum(sizes)) of 0 and 1 -> (..., len(sizes)) int64, the s-th in [0, 2^sizes[s]).

    Raises:
        ValueError: sizes that do not add up to the number of labels, or one above 62.
    """
    if not sizes or min(sizes) < 1 or labels.shape[-1] != sum(sizes):
        raise ValueError(f"sizes {list(sizes)} do not divide {labels.shape[-1]} bit labels")
    return torch.stack([pack_bits(part) for part in torch.split(labels, list(sizes), dim=-1)], dim=-1)


def parts_to_labels(parts: Tensor, sizes: Sequence[int]) -> Tensor:
    """Inverse of ``labels_to_parts``: (..., len(sizes)) -> (..., sum(sizes))."""
    if parts.shape[-1] != len(sizes):
        raise ValueError(f"there are {parts.shape[-1]} parts, sizes {list(sizes)} name {len(sizes)}")
    return torch.cat(
        [unpack_bits(part, size) for part, size in zip(parts.unbind(dim=-1), sizes, strict=True)], dim=-1
    )


def _row(values: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64, device=like.device)


def _integers(values: Tensor, name: str) -> Tensor:
    if values.is_floating_point() or values.dtype == torch.bool:
        raise ValueError(f"{name} are {values.dtype}, not integers")
    return values.to(torch.int64)


def _can_look(values: Tensor) -> bool:
    # reading a value waits for a GPU, and ends a compiled graph
    return values.device.type == "cpu" and not torch.compiler.is_compiling() and values.numel() > 0
