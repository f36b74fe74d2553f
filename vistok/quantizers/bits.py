"""What the quantizers by sign share: bits, their indices or labels, and the entropies of their soft choice."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vistok.global_mean import mean_over_processes
from vistok.quantizers.base import Quantizer, QuantizerOutput, as_latent, check_indices
from vistok.quantizers.combining import with_groups, without_groups
from vistok.quantizers.estimators import straight_through
from vistok.quantizers.index_codec import MAX_BITS, parts_to_labels
from vistok.spec import StreamSpec
from vistok_kernels.bits import bit_entropy, bit_indices, bit_probabilities, distribution_entropy

Entropy = Literal["exact", "factorised", "grouped", "none"]
ENTROPIES = ("exact", "factorised", "grouped", "none")

# the distribution over a group's codes is one number per code
MAX_GROUP = 24


class Bits(Quantizer):
    """A quantizer whose code is the sign of every channel; subclasses say where latents lie and how bits are grouped.

    Loss ``commitment`` is the mean squared distance to the code. In training mode and with an ``entropy``, loss
    ``sample_entropy`` is the mean entropy of each latent's soft code, and ``batch_entropy`` the negated entropy of the
    mean soft code over all processes: minimising both makes choices sure and codes equally used.

    Args:
        sizes: Bits of each index of a position, most significant first.
        magnitude: Absolute value of a code's channels.
        spherical: Scales latents to length 1 first.
        entropy: How the batch term is computed; ``none`` leaves both terms out.
        group_size: Bits per group where ``entropy`` is ``grouped``.
        inverse_temperature: The soft choice is softmax of 2 * inverse_temperature * <latent, code>.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        magnitude: float,
        spherical: bool,
        entropy: Entropy,
        group_size: int,
        inverse_temperature: float,
    ) -> None:
        super().__init__()
        self.dim = sum(sizes)
        if entropy not in ENTROPIES:
            raise ValueError(f"entropy is {entropy!r}, it must be one of {', '.join(ENTROPIES)}")
        self.group_size = {"exact": self.dim, "factorised": 1, "grouped": group_size, "none": 0}[entropy]
        if entropy != "none" and not 1 <= self.group_size <= MAX_GROUP:
            raise ValueError(
                f"entropy over groups of {self.group_size} bits would visit 2^{self.group_size} codes, at most "
                f"2^{MAX_GROUP} are allowed: set entropy='grouped' with a smaller group_size, or 'factorised'"
            )
        if inverse_temperature <= 0:
            raise ValueError(f"inverse_temperature must be above 0, it is {inverse_temperature}")
        self.sizes, self.magnitude, self.spherical = sizes, magnitude, spherical
        self.entropy, self.inverse_temperature = entropy, inverse_temperature
        self.num_groups = len(sizes)
        self.codebook_size: int = 1 << sizes[0]

    @property
    def dim_depthwise(self) -> int:
        """Bits of one index."""
        return self.sizes[0]

    @property
    def loss_names(self) -> tuple[str, ...]:
        """``commitment``, and the two entropies unless left out."""
        return (
            ("commitment",) if self.entropy == "none" else ("commitment", "sample_entropy", "batch_entropy")
        )

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Takes signs. In training mode with an entropy this calls ``global_mean.mean_over_processes``."""
        latent = as_latent(latent, self.dim)
        with torch.autocast(latent.device.type, enabled=False):
            given = latent.detach()
            if self.spherical:
                latent = F.normalize(latent, dim=-1)
            # a view for the op: one index for each group of channels
            indices = bit_indices(latent.detach().reshape(*latent.shape[:-1], self.num_groups, -1))
            if given.device.type != "cpu":
                # where nothing could be raised, no group of a bad latent gets a plausible index
                indices = indices.masked_fill(~given.isfinite().all(dim=-1, keepdim=True), -1)
            indices = without_groups(self, indices)
            code = (latent.detach() > 0).to(latent.dtype).mul_(2 * self.magnitude).sub_(self.magnitude)
            losses = {"commitment": F.mse_loss(latent, code)}
            if self.entropy != "none" and self.training:
                flat, scale = latent.reshape(-1, self.dim), self.inverse_temperature * self.magnitude
                losses["sample_entropy"] = bit_entropy(flat, scale)
                losses["batch_entropy"] = -batch_entropy(flat, scale, self.group_size)
            return QuantizerOutput(straight_through(latent, code), indices, losses)

    def decode(self, indices: Tensor) -> Tensor:
        """Signs from indices: (B, ...) or (B, ..., S) -> (B, ..., d)."""
        return (2 * self.labels(indices) - 1).float() * self.magnitude

    def depthwise(self, indices: Tensor) -> Tensor:
        """The channels of each index: (B, ..., S) -> (B, ..., S, d / S)."""
        if self.num_groups == 1:
            return super().depthwise(indices)
        return self.decode(indices).reshape(*indices.shape, -1)

    def labels(self, indices: Tensor) -> Tensor:
        """Bit labels of indices: (B, ...) or (B, ..., S) -> (B, ..., d) int64 of 0 and 1, most significant first."""
        indices = check_indices(indices, self.codebook_size)
        return parts_to_labels(with_groups(self, indices), self.sizes)

    def stream(self) -> StreamSpec:
        """Adds the bits of one index, and how indices combine."""
        return StreamSpec(
            quantizer=type(self).__name__,
            codebook_size=self.codebook_size,
            dim=self.dim,
            num_groups=self.num_groups,
            combinator="single" if self.num_groups == 1 else "product",
            bits=self.sizes[0],
        )


def batch_entropy(latents: Tensor, scale: float, group_size: int) -> Tensor:
    """The entropy of the mean soft code over the latents of all processes, as if groups of bits were independent.

    ``group_size=d`` is exact, ``group_size=1`` is BSQ's factorised approximation; anything between interpolates, and
    a larger group never gives a larger value. The last group is smaller where the size does not divide d. Calls
    ``mean_over_processes``.

    Shapes:
        latents (N, d) -> scalar in [0, d log 2].
    """
    whole = latents.shape[1] // group_size * group_size
    parts = [(latents[:, :whole], group_size), (latents[:, whole:], latents.shape[1] - whole)]
    tables = [bit_probabilities(part, scale, size) for part, size in parts if part.shape[1]]
    # one message for all groups
    mean = mean_over_processes(torch.cat([table.flatten() for table in tables]), latents.shape[0])
    shares = torch.split(mean, [table.numel() for table in tables])
    return torch.stack(
        [
            distribution_entropy(share.view_as(table)).sum()
            for share, table in zip(shares, tables, strict=True)
        ]
    ).sum()


def index_sizes(num_bits: int, bit_labels: bool) -> tuple[int, ...]:
    """Bits of each index of a position: all in one, or one each.

    Raises:
        ValueError: no bit, or more than 62 in one index.
    """
    if num_bits < 1:
        raise ValueError(f"num_bits must be at least 1, it is {num_bits}")
    if num_bits > MAX_BITS and not bit_labels:
        raise ValueError(f"{num_bits} bits do not fit an int64 index (62 do): set bit_labels=True")
    return (1,) * num_bits if bit_labels else (num_bits,)
