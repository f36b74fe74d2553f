"""A sub-codebook for each code of a parent quantizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.quantizers.base import Quantizer, QuantizerOutput, as_latent
from vistok.quantizers.combining import check_discrete
from vistok.quantizers.estimators import straight_through
from vistok.quantizers.index_codec import pack_digits, unpack_digits
from vistok.quantizers.statistics import rows_of_all_processes
from vistok.spec import StreamSpec
from vistok_kernels.checks import check_finite

# candidates (rows, m, dim) that are looked at at once: 8 MiB
_BLOCK = 1 << 21


class Conditional(Quantizer):
    """Quantizes coarse channels with a parent, and fine ones with the m codes that belong to the parent's code.

    The parent's index i chooses a sub-codebook, the child's index j one of its m codes, and the flat index is
    h = i * m + j: pixels are told apart only within what means the same.

    Losses are the parent's under their own names, and ``child_commitment`` and ``child_codebook``, mean squared distances
    of the fine channels. A frozen parent is left as it is and returns no losses: the second of two training stages.

    Source: Chen et al., SemHiTok (2025), arXiv:2503.06764, section 3.2.

    Args:
        parent: A discrete quantizer with one index per position.
        num_children: m, codes of each sub-codebook.
        dim_child: Channels of a child's code.
        metric: Distance that chooses the child: ``euclid`` or ``cosine``.
        frozen_parent: Keeps the parent from learning.

    Shapes:
        latent (B, ..., parent.dim_in + dim_child), the parent's channels first -> quantized (B, ..., parent.dim +
        dim_child), indices (B, ...) in [0, K m); ties take the lowest index.

    Raises:
        ValueError: a parent that is continuous or gives several indices, more than 2^62 indices, or sizes below 1.
    """

    training_buffers = frozenset({"prepared"})
    prepared: Tensor

    def __init__(
        self,
        parent: Quantizer,
        num_children: int,
        dim_child: int,
        metric: Literal["euclid", "cosine"] = "euclid",
        frozen_parent: bool = False,
    ) -> None:
        super().__init__()
        if num_children < 1 or dim_child < 1:
            raise ValueError(
                f"num_children and dim_child must be at least 1, they are {num_children} and {dim_child}"
            )
        if metric not in ("euclid", "cosine"):
            raise ValueError(f"metric is {metric!r}, it must be one of euclid, cosine")
        self.num_parents = check_discrete(parent, "parent")
        if parent.num_groups != 1:
            raise ValueError(f"a parent must give one index per position, it gives {parent.num_groups}")
        self.radices = (self.num_parents, num_children)
        self.codebook_size: int = self.num_parents * num_children
        if self.codebook_size > 1 << 62:
            raise ValueError(f"{self.codebook_size} indices are more than 2^62: use fewer children")
        self.parent, self.frozen_parent = parent, frozen_parent
        self.num_children, self.dim_child, self.metric = num_children, dim_child, metric
        self.dim = parent.dim + dim_child
        bound = 1.0 if metric == "cosine" else 1.0 / num_children
        table = torch.empty(self.codebook_size, dim_child).uniform_(-bound, bound)
        self.codebook = nn.Parameter(table)
        self.register_buffer("prepared", torch.tensor(False))
        if frozen_parent:
            parent.requires_grad_(False)

    @property
    def dim_in(self) -> int:
        """The parent's channels and the child's."""
        return self.parent.dim_in + self.dim_child

    @property
    def loss_names(self) -> tuple[str, ...]:
        """The parent's unless frozen, ``child_commitment`` and ``child_codebook``."""
        return (*(() if self.frozen_parent else self.parent.loss_names), "child_commitment", "child_codebook")

    def train(self, mode: bool = True) -> Conditional:
        """As usual, but a frozen parent stays in evaluation mode."""
        super().train(mode)
        if self.frozen_parent:
            self.parent.eval()
        return self

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Asks the parent, then its sub-codebooks."""
        coarse, fine = self._split(latent)
        with torch.autocast(latent.device.type, enabled=False):
            above = self.parent(coarse)
            fine = self._scaled(fine)
            children = self._nearest(fine.detach().reshape(-1, self.dim_child), above.indices.reshape(-1))
            children = children.reshape(above.indices.shape)
            good = above.indices >= 0
            # an index of -1 marks a latent that is not finite, on GPUs
            flat = above.indices.clamp(min=0) * self.num_children + children.clamp(min=0)
            indices = torch.where(good & (children >= 0), flat, -torch.ones_like(flat))
            codes = self._scaled(F.embedding(flat, self.codebook.float()))
            losses = {} if self.frozen_parent else dict(above.losses)
            losses["child_commitment"] = F.mse_loss(fine, codes.detach())
            losses["child_codebook"] = F.mse_loss(codes, fine.detach())
            quantized = torch.cat([above.quantized, straight_through(fine, codes.detach())], dim=-1)
            return QuantizerOutput(quantized, indices, losses)

    def decode(self, indices: Tensor) -> Tensor:
        """Both codes, joined: (B, ...) -> (B, ..., D)."""
        parents = self.parts(indices)[..., 0]
        codes = self._scaled(F.embedding(indices.to(torch.int64), self.codebook.float()))
        return torch.cat([self.parent.decode(parents), codes], dim=-1)

    def parts(self, indices: Tensor) -> Tensor:
        """Parent and child of flat indices: (B, ...) -> (B, ..., 2)."""
        return unpack_digits(indices, self.radices, "most")

    def join(self, parts: Tensor) -> Tensor:
        """Flat indices h = i * m + j: (B, ..., 2) -> (B, ...)."""
        return pack_digits(parts, self.radices, "most")

    @torch.no_grad()
    def prepare(self, latent: Tensor) -> None:
        """Prepares the parent, and draws children from the fine channels of all processes, once. Collective.

        A sub-codebook draws from the latents that chose its parent, and from all where none did.
        """
        coarse, fine = self._split(latent)
        if not self.frozen_parent:
            self.parent.prepare(coarse)
        if bool(self.prepared):
            return
        was_training = self.training
        self.eval()  # so that the parent notes no statistics
        parents = self.parent(coarse).indices.reshape(-1, 1)
        self.train(was_training)
        fine = self._scaled(fine).reshape(-1, self.dim_child)
        # float64 carries indices exactly to 2^53, more than a table of codes can have
        rows = rows_of_all_processes(torch.cat([fine.double(), parents.double()], dim=1))
        fine, parents = rows[:, :-1].float(), rows[:, -1].long()
        order = torch.argsort(parents, stable=True)
        counts = torch.bincount(parents, minlength=self.num_parents)
        starts = counts.cumsum(0) - counts
        generator = torch.Generator().manual_seed(0)
        draws = torch.rand(self.num_parents, self.num_children, generator=generator, dtype=torch.float64)
        draws = draws.to(fine.device)
        own = starts.unsqueeze(1) + (draws * counts.unsqueeze(1)).long()
        picks = torch.where(counts.unsqueeze(1) > 0, own, (draws * rows.shape[0]).long())
        self.codebook.copy_(fine[order][picks.flatten()])
        self.prepared.fill_(True)

    def update(self) -> None:
        """Updates the parent unless frozen. Collective."""
        if not self.frozen_parent:
            self.parent.update()

    def loaded(self) -> None:
        """Keeps the loaded codes."""
        self.prepared.fill_(True)

    def stream(self) -> StreamSpec:
        """The parent's description, with m children for each of its codes."""
        return replace(
            self.parent.stream(),
            codebook_size=self.codebook_size,
            dim=self.dim,
            combinator="conditional",
            children=self.num_children,
        )

    @classmethod
    def tiny(cls) -> Conditional:
        """The tiny VQ with 3 children of dim 2 for each code."""
        from vistok.quantizers.vq import VQ

        return cls(VQ.tiny(), 3, 2)

    def _split(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        latent = as_latent(latent, self.dim_in)
        coarse, fine = torch.split(latent, [self.parent.dim_in, self.dim_child], dim=-1)
        return coarse, fine

    def _scaled(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1) if self.metric == "cosine" else vectors

    @torch.no_grad()
    def _nearest(self, fine: Tensor, parents: Tensor) -> Tensor:
        """The child of each latent (N, d) among those of its parent (N,): (N,), -1 where a latent is not finite."""
        if fine.device.type == "cpu" and not torch.compiler.is_compiling():
            check_finite(fine, "latents", "look for the overflow in the encoder")
        table = self._scaled(self.codebook.float()).reshape(-1, self.num_children * self.dim_child)
        numbers = torch.arange(self.num_children, device=fine.device)
        found = []
        for rows in self._blocks(fine.shape[0]):
            candidates = F.embedding(parents[rows].clamp(min=0), table)
            candidates = candidates.reshape(-1, self.num_children, self.dim_child)
            distances = (candidates - fine[rows].unsqueeze(1)).square().sum(dim=-1)
            least = distances.amin(dim=1, keepdim=True)
            # of equal ones the lowest number
            child = torch.where(distances == least, numbers, self.num_children).amin(dim=1)
            found.append(torch.where(least.squeeze(1).isfinite(), child, -torch.ones_like(child)))
        return torch.cat(found) if found else parents

    def _blocks(self, num_rows: int) -> Iterator[slice]:
        step = max(1, _BLOCK // (self.num_children * self.dim_child))
        return (slice(start, start + step) for start in range(0, num_rows, step))
