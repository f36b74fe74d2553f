"""The contract that every quantizer and every combinator of quantizers keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from vistok.recorded import Recorded
from vistok.spec import StreamSpec

Q = TypeVar("Q", bound="Quantizer")


@dataclass(frozen=True)
class QuantizerOutput:
    """What a quantizer makes of latents.

    Args:
        quantized: (B, ..., D), differentiable towards the latents by the quantizer's estimator.
        indices: (B, ...) int64, or (B, ..., S) from a combinator; None if continuous.
        losses: Unweighted scalars by name; the recipe weighs them.
    """

    quantized: Tensor
    indices: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)


class Quantizer(Recorded, nn.Module):
    """Turns latents (B, ..., dim_in) into quantized vectors (B, ..., dim), in float32 whatever the trunk runs in.

    A subclass sets ``dim`` (and ``dim_in`` where it differs), ``codebook_size`` (None if continuous), and writes
    ``forward``, ``decode`` and ``tiny``. Statistics that a forward pass gathers during training take effect in
    ``update``, which the training loop calls once per optimizer step; that is the one place with collectives.
    """

    dim: int
    codebook_size: int | None = None
    num_groups: int = 1

    @property
    def dim_in(self) -> int:
        """Channels that the quantizer expects; equal to ``dim`` unless a subclass says otherwise."""
        return self.dim

    @property
    def dim_depthwise(self) -> int:
        """Channels d of each vector that ``depthwise`` gives; 0 where it gives none."""
        return self.dim

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the losses that ``forward`` returns."""
        return ()

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Quantizes.

        Shapes:
            latent (B, ..., dim_in) -> quantized (B, ..., dim), indices (B, ...) or (B, ..., S).

        Raises:
            ValueError: another number of channels; on the CPU also values that are not finite.
        """
        raise NotImplementedError

    def decode(self, indices: Tensor) -> Tensor:
        """Indices back to quantized vectors: (B, ...) or (B, ..., S) -> (B, ..., dim), in float32.

        Raises:
            ValueError: indices outside [0, codebook_size), or a continuous quantizer.
        """
        raise NotImplementedError

    def depthwise(self, indices: Tensor) -> Tensor:
        """One vector per group or stage: (B, ..., S) -> (B, ..., S, d)."""
        return self.decode(indices.squeeze(-1)).unsqueeze(-2)

    def sample(self, latent: Tensor) -> Tensor:
        """Draws quantized vectors where the quantizer is stochastic: (B, ..., dim_in) -> (B, ..., dim)."""
        return self.forward(latent).quantized

    def prepare(self, latent: Tensor) -> None:
        """Sees the first batch of latents before the first training step (k-means init). Collective; same result on all ranks."""

    def update(self) -> None:
        """Applies the statistics of the steps since the last call (EMA, dead-code revival). Collective; same result on all ranks."""

    def revive(self, dead: Tensor, latent: Tensor) -> bool:
        """Replaces codes that nobody chooses by latents; returns whether it can: only where codes are vectors of their own.

        Collective; same result on all ranks.

        Shapes:
            dead (S, K) boolean, latent (B, ..., dim_in).
        """
        return False

    def loaded(self) -> None:
        """Told once after weights were loaded from a file, which holds no training statistics."""

    def stream(self) -> StreamSpec:
        """This quantizer's part of the spec."""
        return StreamSpec(
            quantizer=type(self).__name__,
            codebook_size=self.codebook_size,
            dim=self.dim,
            num_groups=self.num_groups,
        )

    @classmethod
    def tiny(cls: type[Q]) -> Q:
        """The smallest sensible one: contract tests and tiny recipes use it."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Arguments as given, so that printing a model shows its settings."""
        return ", ".join(f"{k}={v!r}" for k, v in self._arguments.items() if not isinstance(v, nn.Module))


def as_latent(latent: Tensor, dim: int) -> Tensor:
    """The latents in float32, after checking that they have ``dim`` channels.

    Raises:
        ValueError: they have not.
    """
    if latent.shape[-1] != dim:
        raise ValueError(
            f"latents have {latent.shape[-1]} channels, the quantizer expects {dim} (channels come last)"
        )
    return latent.float()


def check_indices(indices: Tensor, codebook_size: int) -> Tensor:
    """The indices as int64, after checking their range.

    Raises:
        ValueError: not integers, or one outside [0, codebook_size).
    """
    if indices.is_floating_point() or indices.dtype == torch.bool:
        raise ValueError(f"indices are {indices.dtype}, not integers")
    indices = indices.to(torch.int64)
    if not torch.compiler.is_compiling() and indices.numel():
        low, high = int(indices.min()), int(indices.max())
        if low < 0 or high >= codebook_size:
            raise ValueError(f"index {low if low < 0 else high} is outside [0, {codebook_size})")
    return indices
