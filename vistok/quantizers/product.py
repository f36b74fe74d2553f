"""Product quantization: groups of channels, each with its own quantizer or all with one."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from vistok.quantizers.base import Quantizer, QuantizerOutput, as_latent, check_indices
from vistok.quantizers.combining import (
    another,
    check_discrete,
    codebooks_of,
    mean_losses,
    quantize,
    with_groups,
    without_groups,
)
from vistok.quantizers.vq import VQ
from vistok.spec import StreamSpec
from vistok_kernels import product_codes


class Product(Quantizer):
    """Splits the channels into groups, quantizes each, and joins what they give.

    The losses of all groups are averaged under their own names, so a weight means the same at any number of groups.

    Source: Jegou et al., Product Quantization for Nearest Neighbor Search (2011); for tokens Ma et al., UniTok (2025),
    arXiv:2502.20321, section 3.2 (8 groups of 4096 codes of dim 8).

    Args:
        part: The quantizer of the first group; a discrete one, combinators included.
        num_groups: G, at least 1. Further groups are built with the same arguments.
        shared: One quantizer for all groups instead of one each.

    Shapes:
        latent (B, ..., G dim_in) -> quantized (B, ..., G dim), indices (B, ..., G S), S of the part; (B, ...) if G S = 1.

    Raises:
        ValueError: no groups, or a continuous part.
    """

    def __init__(self, part: Quantizer, num_groups: int, shared: bool = False) -> None:
        super().__init__()
        if num_groups < 1:
            raise ValueError(f"num_groups must be at least 1, it is {num_groups}")
        self.codebook_size: int = check_discrete(part, "part")
        others = [] if shared else [another(part) for _ in range(num_groups - 1)]
        self.parts = nn.ModuleList([part, *others])
        self.num_parts = num_groups
        self.dim = num_groups * part.dim
        self.num_groups = num_groups * part.num_groups

    @property
    def dim_in(self) -> int:
        """G times the part's."""
        return self.num_parts * self._part(0).dim_in

    @property
    def dim_depthwise(self) -> int:
        """The part's."""
        return self._part(0).dim_depthwise

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Those of a part."""
        return self._part(0).loss_names

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Quantizes group by group."""
        latent = as_latent(latent, self.dim_in)
        found = self._found(latent)
        outputs, indices = zip(
            *(
                quantize(self._part(number), piece, found, number)
                for number, piece in enumerate(latent.chunk(self.num_parts, dim=-1))
            ),
            strict=True,
        )
        return QuantizerOutput(
            torch.cat([output.quantized for output in outputs], dim=-1),
            without_groups(self, torch.cat(indices, dim=-1)),
            mean_losses(output.losses for output in outputs),
        )

    def decode(self, indices: Tensor) -> Tensor:
        """Joins the vectors of all groups: (B, ..., G S) -> (B, ..., G dim)."""
        pieces = self._pieces(indices)
        return torch.cat(
            [self._part(n).decode(without_groups(self._part(0), piece)) for n, piece in enumerate(pieces)],
            dim=-1,
        )

    def depthwise(self, indices: Tensor) -> Tensor:
        """The vector of each index: (B, ..., G S) -> (B, ..., G S, d)."""
        indices = indices.squeeze(-1) if self.num_groups == 1 else indices
        return torch.cat(
            [self._part(n).depthwise(piece) for n, piece in enumerate(self._pieces(indices))], -2
        )

    @torch.no_grad()
    def prepare(self, latent: Tensor) -> None:
        """Prepares each group; a shared part sees all of them. Collective."""
        pieces = as_latent(latent, self.dim_in).chunk(self.num_parts, dim=-1)
        if len(self.parts) < self.num_parts:
            self._part(0).prepare(torch.cat(pieces, dim=0))
            return
        for number, piece in enumerate(pieces):
            self._part(number).prepare(piece)

    @torch.no_grad()
    def revive(self, dead: Tensor, latent: Tensor) -> bool:
        """Revives in each group; a shared part, what is dead in all of them. Collective."""
        pieces = as_latent(latent, self.dim_in).chunk(self.num_parts, dim=-1)
        by_part = dead.reshape(self.num_parts, -1, dead.shape[-1])
        if len(self.parts) < self.num_parts:
            return self._part(0).revive(by_part.all(dim=0), torch.cat(pieces, dim=0))
        # every part is asked, so that processes stay in step
        done = [self._part(n).revive(by_part[n], piece) for n, piece in enumerate(pieces)]
        return all(done)

    def update(self) -> None:
        """Updates each part. Collective."""
        for number in range(len(self.parts)):
            self._part(number).update()

    def stream(self) -> StreamSpec:
        """A part's description, as a product of G S."""
        return replace(self._part(0).stream(), dim=self.dim, num_groups=self.num_groups, combinator="product")

    @classmethod
    def tiny(cls) -> Product:
        """Two groups of the tiny VQ."""
        return cls(VQ.tiny(), 2)

    def _part(self, number: int) -> Quantizer:
        part = self.parts[min(number, len(self.parts) - 1)]
        assert isinstance(part, Quantizer)
        return part

    def _found(self, latent: Tensor) -> tuple[Tensor, ...] | None:
        """The indices of each group (B, ...), where one op can find them all."""
        tables = codebooks_of(self.parts)
        if tables is None:
            return None
        indices = product_codes(
            latent.detach().reshape(-1, self.dim_in), tables.expand(self.num_parts, -1, -1)
        )
        return indices.reshape(*latent.shape[:-1], self.num_parts).unbind(dim=-1)

    def _pieces(self, indices: Tensor) -> tuple[Tensor, ...]:
        indices = with_groups(self, indices)
        if indices.shape[-1] != self.num_groups:
            raise ValueError(f"indices have {indices.shape[-1]} groups, the quantizer {self.num_groups}")
        return check_indices(indices, self.codebook_size).chunk(self.num_parts, dim=-1)
