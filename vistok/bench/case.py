"""What a benchmark is: inputs, a check of results, and the providers that compete."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """How much a case asks for: N latents of dim D, K codes, S stages."""

    num_latents: int
    num_codes: int
    dim: int
    stages: int = 1

    def __str__(self) -> str:
        stages = f"{self.stages} x " if self.stages > 1 else ""
        return f"N {self.num_latents}, K {stages}{self.num_codes}, dim {self.dim}"


class Inputs(NamedTuple):
    """What every provider of a case is given, the same to each: latents (N, D), codebooks (S, K, D)."""

    latents: Tensor
    codebooks: Tensor

    def rows(self, first: int, last: int) -> Inputs:
        """The same with some of the latents."""
        return Inputs(self.latents[first:last], self.codebooks)


@dataclass(frozen=True)
class Result:
    """What one run gives for checking; a provider fills in what it has.

    Args:
        indices: (N,) or (N, S).
        values: Named tensors that the case compares with those of its definition: losses, gradients, moved codes.
    """

    indices: Tensor | None = None
    values: dict[str, Tensor] = field(default_factory=dict)


Work = Callable[[Inputs], Result]


@dataclass(frozen=True)
class Provider:
    """Who computes a case.

    Args:
        name: As the table says it.
        make: Builds what is built once (modules, an index) from the inputs; what it returns is timed.
        module: Import name that must be there; None where nothing more is needed.
        package: Distribution whose version is reported.
        device: The kind of device that it runs on; None for any.
        bytes_per_pair: Expected memory per latent and code. Where all latents would not fit, they go in chunks, which
            the row then says.
        ours: Whether a wrong result is a fault of vistok's.
        compiled: Whether the first run compiles for its shapes, so that a warm-up must be of full size.
    """

    name: str
    make: Callable[[Inputs], Work]
    module: str | None = None
    package: str | None = None
    device: str | None = None
    bytes_per_pair: float = 0.0
    ours: bool = False
    compiled: bool = False

    def absence(self, device: str) -> str | None:
        """Why it cannot take part on a kind of device, or None."""
        if self.device is not None and self.device != device:
            return f"runs on {self.device} only"
        if self.module is not None and find_spec(self.module) is None:
            return "not installed"
        return None

    @property
    def version(self) -> str:
        """Of the distribution, empty where there is none."""
        try:
            return version(self.package) if self.package else ""
        except PackageNotFoundError:
            return ""


@dataclass(frozen=True)
class Case:
    """One op at one shape.

    Args:
        op: Name on the command line.
        stage: ``forward``, ``forward + backward``, or ``training step`` (forward, backward, update).
        shape: N, K, D, S.
        draw: Draws the inputs, the same at each call.
        check: What is wrong with a result, or None; and how many near ties went the other way.
        providers: In the order of the table.
        missing: Why our own op cannot run yet; the case is then listed, not run.
    """

    op: str
    stage: str
    shape: Shape
    draw: Callable[[Shape, str], Inputs]
    check: Callable[[Inputs, Result, bool], tuple[str | None, int]]
    providers: tuple[Provider, ...]
    missing: str | None = None

    def inputs(self, device: str) -> Inputs:
        """The inputs, on a device."""
        return self.draw(self.shape, device)

    def smaller(self, num_latents: int) -> Case:
        """The same with fewer latents."""
        shape = replace(self.shape, num_latents=min(num_latents, self.shape.num_latents))
        return replace(self, shape=shape)

    def provider(self, name: str) -> Provider:
        """The provider of that name."""
        return next(provider for provider in self.providers if provider.name == name)


def in_chunks(work: Work, inputs: Inputs, chunk: int) -> Result:
    """Runs over the latents ``chunk`` at a time; indices are joined, other values are those of the last chunk."""
    starts = range(0, len(inputs.latents), chunk)
    results = [work(inputs.rows(start, start + chunk)) for start in starts]
    if len(results) == 1:
        return results[0]
    parts = [result.indices for result in results if result.indices is not None]
    return Result(torch.cat(parts) if parts else None)
