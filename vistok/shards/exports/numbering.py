"""Which numbers the indices of an image get in an exported file; every one comes from the caller.

A published backbone's sequence, with its rows, headers and text vocabulary, is a layout: ``vistok.layouts`` writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vistok.errors import ShardError
from vistok.spec import StreamSpec

MAX_VOCABULARY = 1 << 63
SPECIALS = ("bos", "boi", "eoi", "eos")


@dataclass(frozen=True)
class TokenNumbering:
    """Where ids of image tokens begin, in which order they are, and which special tokens stand around them.

    The id of index i in group s is ``offset + s * group_stride + i``. A sequence is ``bos boi ids eoi eos``, without
    those that are None.

    Args:
        offset: Id of the first code: where the image tokens begin in the model's vocabulary.
        group_order: How S > 1 indices of a position become one sequence: ``position`` keeps the S of a position
            together, ``group`` puts all of group 0 first. None refuses S > 1.
        group_stride: What each group's ids are moved by; 0 lets all groups share their ids.
        bos: Id at the start of a sequence.
        eos: Id at its end.
        boi: Id before the image.
        eoi: Id after it.
        vocab_size: Of the model, which decides the type of the tokens; None takes the least that holds all ids.
    """

    offset: int = 0
    group_order: Literal["position", "group"] | None = None
    group_stride: int = 0
    bos: int | None = None
    eos: int | None = None
    boi: int | None = None
    eoi: int | None = None
    vocab_size: int | None = None

    @property
    def specials(self) -> dict[str, int]:
        """The special tokens that are there, by name."""
        return {name: getattr(self, name) for name in SPECIALS if getattr(self, name) is not None}

    def check(self, stream: StreamSpec, format_name: str, *, specials: bool = True, flat: bool = True) -> int:
        """Makes sure that all ids of a stream can be told apart and hold in the vocabulary; gives its size.

        Args:
            stream: Discrete.
            format_name: For messages.
            specials: Whether the format has a place for special tokens.
            flat: Whether the format is one sequence an image, so that S > 1 needs an order.

        Raises:
            ShardError: they do not; the message names the option.
        """
        for name in ("offset", "group_stride", "vocab_size", *SPECIALS):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ShardError(f"{name} is {value}: ids start at 0")
        if self.specials and not specials:
            raise ShardError(
                f"{format_name} has no place for special tokens: leave out {', '.join(self.specials)}"
            )
        if flat and stream.num_groups > 1 and self.group_order is None:
            raise ShardError(
                f"stream {stream.name} has {stream.num_groups} indices a position and {format_name} is one sequence: "
                "give --group-order position or group, and --group-stride if each group has ids of its own"
            )
        end = self.offset + self.group_stride * (stream.num_groups - 1) + (stream.codebook_size or 0)
        for name, value in self.specials.items():
            if self.offset <= value < end:
                raise ShardError(
                    f"{name} {value} lies among the image tokens, which are {self.offset} to {end - 1}: "
                    "give another id, or move the image tokens with --offset"
                )
        least = max([end, *(value + 1 for value in self.specials.values())])
        if self.vocab_size is not None and self.vocab_size < least:
            raise ShardError(
                f"id {least - 1} does not fit a vocabulary of {self.vocab_size}: give --vocab-size {least} or more"
            )
        size = least if self.vocab_size is None else self.vocab_size
        if size > MAX_VOCABULARY:
            raise ShardError(f"a vocabulary of {size} does not fit 64 bits: give a smaller offset or stride")
        return size

    def ids(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices with their offsets, int64 of the same shape (N, S)."""
        return indices + (self.offset + self.group_stride * np.arange(indices.shape[1], dtype=np.int64))

    def sequence(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices (N, S) to one sequence (N * S + special tokens,), int64."""
        ids = self.ids(indices)
        flat = (ids.T if self.group_order == "group" else ids).reshape(-1)
        before = [value for value in (self.bos, self.boi) if value is not None]
        after = [value for value in (self.eoi, self.eos) if value is not None]
        return np.concatenate(
            [np.array(before, dtype=np.int64), flat, np.array(after, dtype=np.int64)], dtype=np.int64
        )


def narrowest(vocabulary: int, limits: dict[str, int], format_name: str) -> np.dtype[Any]:
    """The first type whose limit holds a vocabulary; nothing is ever cut off.

    Args:
        vocabulary: Number of ids.
        limits: Largest vocabulary by type, narrow to wide.
        format_name: For messages.

    Raises:
        ShardError: it fits none.
    """
    for name, limit in limits.items():
        if vocabulary <= limit:
            return np.dtype(name)
    raise ShardError(
        f"{format_name} holds ids below {max(limits.values())} and the vocabulary has {vocabulary}: "
        "give a smaller --offset or --group-stride, or another format"
    )
