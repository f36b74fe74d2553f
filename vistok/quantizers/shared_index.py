"""Several codebooks under one index."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.quantizers.base import Quantizer, QuantizerOutput, as_latent, check_indices
from vistok.quantizers.combining import another
from vistok.quantizers.estimators import straight_through
from vistok.quantizers.kmeans import kmeans
from vistok.quantizers.statistics import from_first_process, rows_of_all_processes
from vistok.quantizers.vq import VQ
from vistok.spec import StreamSpec
from vistok_kernels import nearest_code


class SharedIndex(Quantizer):
    """Chooses one index for several codebooks at once: the least weighted sum of their squared distances.

    A semantic and a pixel codebook thereby speak of the same thing: one token names a code in each. Distances of a part
    with ``metric="cosine"`` are between vectors of length 1, |a - b|^2 = 2 - 2 cos. The weighted sum is the squared
    distance between vectors scaled by the roots of the weights and joined, so one search over K codes finds it.

    Losses ``commitment`` and, where a part's codes learn, ``codebook`` are averaged over parts.

    Source: Qu et al., TokenFlow (2024), arXiv:2412.03069, section 3.1 (semantic 32 channels, pixel 8, weights 1 and 1).

    Args:
        parts: Codebooks of one size K, moved by gradient, without revival; their own estimators are not used.
        weights: Of each part's squared distance, above 0; all 1 by default.

    Shapes:
        latent (B, ..., sum of dims), parts in order -> quantized alike, indices (B, ...) in [0, K); ties take the lowest.

    Raises:
        ValueError: fewer than two parts, other sizes, parts that keep statistics, or a weight not above 0.
    """

    training_buffers = frozenset({"prepared"})
    prepared: Tensor

    def __init__(self, parts: Sequence[VQ], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.weights = tuple(float(w) for w in (weights if weights is not None else [1.0] * len(parts)))
        if len(parts) < 2 or len({part.codebook_size for part in parts}) > 1:
            sizes = [part.codebook_size for part in parts]
            raise ValueError(f"parts must be at least two codebooks of one size, they have sizes {sizes}")
        if len(self.weights) != len(parts) or min(self.weights) <= 0:
            raise ValueError(
                f"weights must be one above 0 for each of {len(parts)} parts, they are {self.weights}"
            )
        for part in parts:
            if not isinstance(part, VQ) or "index" in part.loss_names or part.metric == "dot":
                raise ValueError("parts must be VQ codebooks chosen by euclid or cosine distance")
            if part.revive_after or any(name == "ema_counts" for name, _ in part.named_buffers()):
                raise ValueError("parts note no statistics here: use update='gradient' and revive_after=0")
        self.parts = nn.ModuleList(parts)
        self.codebook_size: int = parts[0].codebook_size
        self.dims = [part.dim for part in parts]
        self.dim = sum(self.dims)
        self.register_buffer("prepared", torch.tensor(all(part.init != "kmeans" for part in parts)))

    @property
    def loss_names(self) -> tuple[str, ...]:
        """``commitment``, and ``codebook`` where a gradient moves a part's codes."""
        learns = any("codebook" in part.loss_names for part in self._parts())
        return ("commitment", "codebook") if learns else ("commitment",)

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Finds the index of the least weighted distance."""
        latent = as_latent(latent, self.dim)
        with torch.autocast(latent.device.type, enabled=False):
            pieces = self._scaled(latent)
            everything = torch.arange(self.codebook_size, device=latent.device)
            with torch.no_grad():
                table = self._joined([part.decode(everything) for part in self._parts()])
                flat = self._joined(pieces).reshape(-1, self.dim)
                indices = nearest_code(flat, table).reshape(latent.shape[:-1])
            commitment, codebook, quantized = [], [], []
            for piece, part in zip(pieces, self._parts(), strict=True):
                # an index of -1 marks a latent that is not finite, on GPUs; it has no code
                codes = part.decode(indices.clamp(min=0) if indices.is_cuda else indices)
                commitment.append(F.mse_loss(piece, codes.detach()))
                if "codebook" in part.loss_names:
                    codebook.append(F.mse_loss(codes, piece.detach()))
                quantized.append(straight_through(piece, codes.detach()))
            losses = {"commitment": torch.stack(commitment).mean()}
            if codebook:
                losses["codebook"] = torch.stack(codebook).mean()
            return QuantizerOutput(torch.cat(quantized, dim=-1), indices, losses)

    def decode(self, indices: Tensor) -> Tensor:
        """The codes of all parts, joined: (B, ...) -> (B, ..., sum of dims)."""
        indices = check_indices(indices, self.codebook_size)
        return torch.cat([part.decode(indices) for part in self._parts()], dim=-1)

    @torch.no_grad()
    def prepare(self, latent: Tensor) -> None:
        """Sets all codebooks to k-means centres of the joined latents of all processes, once in a lifetime. Collective."""
        if bool(self.prepared):
            return
        rows = self._joined(self._scaled(as_latent(latent, self.dim))).reshape(-1, self.dim)
        centres = from_first_process(kmeans(rows_of_all_processes(rows), self.codebook_size))
        for part, weight, piece in zip(
            self._parts(), self.weights, torch.split(centres, self.dims, dim=-1), strict=True
        ):
            part.set_codebook(piece / weight**0.5)
        self.prepared.fill_(True)

    def update(self) -> None:
        """Nothing: gradients move the codes."""

    def loaded(self) -> None:
        """Keeps the loaded codes from k-means."""
        self.prepared.fill_(True)

    def stream(self) -> StreamSpec:
        """One index that names a code in each part."""
        return StreamSpec(
            "pixel", "pixel", "SharedIndex", self.codebook_size, self.dim, combinator="shared_index"
        )

    @classmethod
    def tiny(cls) -> SharedIndex:
        """16 codes of dim 4 and 4."""
        return cls((VQ.tiny(), another(VQ.tiny())))

    def _parts(self) -> list[VQ]:
        return [part for part in self.parts if isinstance(part, VQ)]

    def _scaled(self, latent: Tensor) -> list[Tensor]:
        return [
            F.normalize(piece, dim=-1) if part.metric == "cosine" else piece
            for piece, part in zip(torch.split(latent, self.dims, dim=-1), self._parts(), strict=True)
        ]

    def _joined(self, pieces: Sequence[Tensor]) -> Tensor:
        weighted = [piece * weight**0.5 for piece, weight in zip(pieces, self.weights, strict=True)]
        return torch.cat(weighted, dim=-1)
