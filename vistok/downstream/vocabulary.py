"""How a discrete tokenizer's indices become parts that a small model can score, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vistok.errors import TokenizerError
from vistok.spec import StreamSpec
from vistok.tokenizer import Tokenizer

LARGEST = 1 << 14
_TARGET = 1 << 12


@dataclass(frozen=True)
class Vocabulary:
    """The parts of a position: its S indices, each of them one part, or several digits where a codebook is too large.

    A model scores all values of a part at once. Codebooks of more than 2^14 codes are split as their construction
    allows: bits into runs of bits, levels into products of levels, others by divisors of K. The product of the digits'
    sizes is K, so that probabilities of parts multiply to those of indices.

    Source: digits after Luo et al., Open-MAGVIT2 (2024), arXiv:2409.04410, section 3.3 (asymmetric token factorization).

    Args:
        codebook_size: K.
        num_groups: S.
        digits: Sizes of the digits of one index, most significant first; their product is K.
        separable: Whether a digit has a vector of its own, as in codes that are products.
    """

    codebook_size: int
    num_groups: int
    digits: tuple[int, ...]
    separable: bool

    @classmethod
    def of(cls, stream: StreamSpec) -> Vocabulary:
        """The vocabulary of a discrete stream.

        Raises:
            TokenizerError: a large codebook whose size cannot be split.
        """
        size = stream.codebook_size
        assert size is not None
        if size <= LARGEST:
            return cls(size, stream.num_groups, (size,), True)
        if stream.bits and size == 1 << stream.bits:
            return cls(size, stream.num_groups, _runs_of_bits(stream.bits), True)
        if stream.levels and math.prod(stream.levels) == size and max(stream.levels) <= LARGEST:
            return cls(size, stream.num_groups, _products(stream.levels), True)
        return cls(size, stream.num_groups, _divisors(size), False)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of values of each part."""
        return self.digits * self.num_groups

    def split(self, indices: Tensor) -> Tensor:
        """Indices to parts: (..., S) -> (..., P), P = S times the number of digits."""
        if len(self.digits) == 1:
            return indices
        parts, rest = [], indices
        for size in reversed(self.digits):
            parts.append(rest % size)
            rest = rest // size
        return torch.stack(parts[::-1], dim=-1).flatten(-2)

    def join(self, parts: Tensor) -> Tensor:
        """Parts to indices: (..., P) -> (..., S)."""
        if len(self.digits) == 1:
            return parts
        by_group = parts.reshape(*parts.shape[:-1], self.num_groups, len(self.digits))
        indices: Tensor = by_group[..., 0]
        for place, size in enumerate(self.digits[1:], start=1):
            indices = indices * size + by_group[..., place]
        return indices

    @torch.no_grad()
    def vectors(self, tokenizer: Tokenizer, stream: str) -> list[Tensor | None]:
        """The post-quantization vectors of each part's values, (size, d) for each part; None where there are none.

        A digit's vectors are those of codes whose other digits are 0: right up to a constant where codes are products.
        """
        if not self.separable:
            return [None] * len(self.sizes)
        by_digit = []
        for place, size in enumerate(self.digits):
            values = torch.arange(size) * math.prod(self.digits[place + 1 :])
            indices = values[None, :, None].expand(1, size, self.num_groups)
            by_digit.append(tokenizer.embed(indices, depthwise=True, stream=stream)[0])
        return [vectors[:, group] for group in range(self.num_groups) for vectors in by_digit]


def _runs_of_bits(bits: int) -> tuple[int, ...]:
    count = math.ceil(bits / math.log2(_TARGET))
    return tuple(1 << (bits // count + (run < bits % count)) for run in range(count))


def _products(levels: tuple[int, ...]) -> tuple[int, ...]:
    """Products of neighbouring levels, which are given least significant first."""
    digits = [1]
    for level in levels:
        if digits[-1] * level > _TARGET and digits[-1] > 1:
            digits.append(1)
        digits[-1] *= level
    return tuple(reversed(digits))


def _divisors(size: int) -> tuple[int, ...]:
    digits, rest = [], size
    for left in range(math.ceil(math.log(size, _TARGET)), 1, -1):
        limit = math.ceil(rest ** (1 / left))
        digit = next(number for number in range(limit, 0, -1) if rest % number == 0)
        digits.append(digit)
        rest //= digit
    digits.append(rest)
    if max(digits) > LARGEST:
        raise TokenizerError(
            f"a codebook of {size} codes cannot be split into digits of at most {LARGEST}: its size has too few divisors; "
            f"use a codebook of at most {LARGEST}, or of a power of two"
        )
    return tuple(digits)
