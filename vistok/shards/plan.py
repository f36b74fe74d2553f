"""Which sample goes to which shard: fixed before the first image is read, and never changed."""

from __future__ import annotations

import hashlib
import itertools
import json
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from vistok.errors import ShardError


@dataclass(frozen=True)
class Plan:
    """The sorted keys of a dataset, cut into shards of ``shard_size``; the last shard may be shorter.

    A sample's *number* is its position among the sorted keys. Shard i holds the numbers
    ``[i * shard_size, (i + 1) * shard_size)`` whatever the number of workers, so any run of the same job writes
    the same files.

    Args:
        keys: Sorted and unique; ``Plan.of`` sees to both.
        shard_size: Samples per shard, at least 1.
    """

    keys: tuple[str, ...]
    shard_size: int

    @classmethod
    def of(cls, keys: Iterable[str], shard_size: int) -> Plan:
        """The plan for a dataset with these keys, given in any order.

        Raises:
            ShardError: no keys, the same key twice, or a shard size below 1.
        """
        if shard_size < 1:
            raise ShardError(f"shard_size must be at least 1, it is {shard_size}")
        ordered = sorted(keys)
        if not ordered:
            raise ShardError("the dataset is empty: there is nothing to encode")
        for left, right in itertools.pairwise(ordered):
            if left == right:
                raise ShardError(f"two images have the key {left!r}: keys must be unique, rename one of them")
        return cls(tuple(ordered), shard_size)

    @property
    def num_samples(self) -> int:
        """Number of keys."""
        return len(self.keys)

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.num_samples // self.shard_size)

    def numbers(self, shard: int) -> range:
        """The sample numbers of one shard."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.num_samples))

    def number(self, key: str) -> int:
        """The number of the sample with that key.

        Raises:
            KeyError: no such key.
        """
        position = bisect_left(self.keys, key)
        if position == len(self.keys) or self.keys[position] != key:
            raise KeyError(key)
        return position

    @cached_property
    def keys_hash(self) -> str:
        """The sha256 of the keys, in hex."""
        digest = hashlib.sha256()
        for key in self.keys:
            digest.update(json.dumps(key).encode())
            digest.update(b"\n")
        return digest.hexdigest()

    def to_json(self) -> str:
        """The plan as JSON text, one key a line."""
        keys = ",\n".join(json.dumps(key) for key in self.keys)
        return f'{{"shard_size": {self.shard_size}, "keys": [\n{keys}\n]}}\n'

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Reads what ``to_json`` wrote.

        Raises:
            ShardError: not JSON, another structure, or keys that are not sorted and unique.
        """
        try:
            data = json.loads(text)
            keys, shard_size = data["keys"], data["shard_size"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ShardError(f"plan.json is damaged: {type(error).__name__}: {error}") from error
        if not isinstance(shard_size, int) or isinstance(shard_size, bool) or not isinstance(keys, list):
            raise ShardError("plan.json is damaged: it needs an integer shard_size and a list of keys")
        if not all(isinstance(key, str) for key in keys):
            raise ShardError("plan.json is damaged: a key is not a string")
        plan = cls.of(keys, shard_size)
        if plan.keys != tuple(keys):
            raise ShardError("plan.json is damaged: its keys are not sorted")
        return plan
