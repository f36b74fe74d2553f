"""How continuous latents are stored, and what their channels are like: mean and standard deviation of a whole run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vistok.errors import ShardError
from vistok.shards.arrow_streams import from_bfloat16, to_bfloat16

LatentType = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class LatentFormat:
    """How the latents of a continuous tokenizer are stored; a discrete one has only the default.

    Args:
        dtype: ``float32``; or ``float16`` or ``bfloat16``, rounded to the nearest, for half the bytes.
        moments: Store mean and standard deviation of each latent, (N, 2 D), so that training can draw from them; False
            stores the means alone.

    Raises:
        ShardError: an unknown type.
    """

    dtype: LatentType = "float32"
    moments: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in get_args(LatentType):
            raise ShardError(f"latents must be one of {', '.join(get_args(LatentType))}, not {self.dtype!r}")

    def check(self, continuous: bool, container: str) -> None:
        """Makes sure that the tokenizer and the container can do it.

        Raises:
            ShardError: they cannot.
        """
        if not continuous and self != FLOAT32:
            raise ShardError("the tokenizer is discrete: it has indices, and no latents to choose a type for")
        if self.dtype == "bfloat16" and container == "tar":
            raise ShardError("tar shards hold .npy files, which have no bfloat16: take float16, or Arrow")

    def rounded(self, latents: NDArray[np.float32]) -> NDArray[Any]:
        """The latents as they will be read back; those of bfloat16 in float32, as numpy has none. Too large ones are Inf."""
        if self.dtype == "bfloat16":
            return from_bfloat16(to_bfloat16(latents))
        with np.errstate(over="ignore"):
            return latents.astype(self.dtype, copy=False)


FLOAT32 = LatentFormat()


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """Count, mean and sum of squared deviations of each channel, which merge without loss; all in float64.

    Source: Chan, Golub & LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances (1979).

    Args:
        count: Positions seen.
        mean: (D,).
        m2: (D,), sums of squared deviations from the mean.
    """

    count: int
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]

    @classmethod
    def of(cls, latents: NDArray[Any], moments: bool = False) -> ChannelStatistics:
        """Of one sample: (N, D); or (N, 2 D), means and standard deviations, which count as if drawn from endlessly."""
        values = latents.astype(np.float64)
        spread: NDArray[np.float64] | float = 0.0
        if moments:
            values, deviations = np.split(values, 2, axis=1)
            spread = np.square(deviations).sum(axis=0)
        mean = values.mean(axis=0) if len(values) else np.zeros(values.shape[1])
        return cls(len(values), mean, np.square(values - mean).sum(axis=0) + spread)

    def merged(self, other: ChannelStatistics) -> ChannelStatistics:
        """Of both together."""
        count = self.count + other.count
        if not count:
            return self
        delta = other.mean - self.mean
        return ChannelStatistics(
            count,
            self.mean + delta * (other.count / count),
            self.m2 + other.m2 + np.square(delta) * (self.count * other.count / count),
        )

    @property
    def std(self) -> NDArray[np.float64]:
        """(D,), the standard deviation over all positions."""
        deviations: NDArray[np.float64] = np.sqrt(self.m2 / max(self.count, 1))
        return deviations

    def to_json_data(self) -> dict[str, Any]:
        """As plain data, exact."""
        return {"count": self.count, "mean": self.mean.tolist(), "m2": self.m2.tolist()}

    @classmethod
    def from_json_data(cls, data: Any) -> ChannelStatistics:
        """Reads what ``to_json_data`` gave.

        Raises:
            ShardError: it is something else.
        """
        try:
            count, mean, m2 = data["count"], [*map(float, data["mean"])], [*map(float, data["m2"])]
            if type(count) is not int or len(mean) != len(m2) or not all(map(math.isfinite, (*mean, *m2))):
                raise ValueError("not a count and two lists of equal length")
        except (TypeError, KeyError, ValueError) as error:
            raise ShardError(f"latent statistics are damaged: {error}") from error
        return cls(count, np.array(mean), np.array(m2))


class LatentStatistics:
    """Statistics of the continuous streams of some samples, added in the order of the plan, so that every run gets the same.

    Args:
        moments: Whether samples hold means and standard deviations.
    """

    def __init__(self, moments: bool = False) -> None:
        self._moments = moments
        self._of: dict[str, ChannelStatistics] = {}

    def add(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Counts one sample."""
        for name, array in arrays.items():
            if array.dtype.kind == "f":
                found = ChannelStatistics.of(array, self._moments)
                self._of[name] = self._of[name].merged(found) if name in self._of else found

    def to_json_data(self) -> dict[str, Any]:
        """By stream, as plain data; empty for a discrete tokenizer."""
        return {name: found.to_json_data() for name, found in sorted(self._of.items())}

    def agree_with(self, recorded: Mapping[str, Any]) -> bool:
        """Whether these are the statistics that were recorded, but for the last bits of sums on another machine.

        Raises:
            ShardError: what was recorded is damaged.
        """
        found = combined([recorded])
        return found.keys() == self._of.keys() and all(
            own.count == found[name].count
            and np.allclose(own.mean, found[name].mean, rtol=1e-9, atol=1e-12)
            and np.allclose(own.m2, found[name].m2, rtol=1e-9, atol=1e-12)
            for name, own in self._of.items()
        )


def combined(shards: Iterable[Mapping[str, Any]]) -> dict[str, ChannelStatistics]:
    """Statistics of a whole run from those of its shards, in their order, by stream.

    Raises:
        ShardError: statistics that are damaged.
    """
    whole: dict[str, ChannelStatistics] = {}
    for shard in shards:
        for name, data in shard.items():
            found = ChannelStatistics.from_json_data(data)
            if name in whole and len(whole[name].mean) != len(found.mean):
                raise ShardError(f"latent statistics of stream {name} have different numbers of channels")
            whole[name] = whole[name].merged(found) if name in whole else found
    return whole
