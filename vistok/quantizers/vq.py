"""Vector quantization with a learned codebook."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.quantizers.base import Quantizer, QuantizerOutput, as_latent, check_indices
from vistok.quantizers.estimators import rotation_trick, straight_through
from vistok.quantizers.kmeans import kmeans
from vistok.quantizers.statistics import from_first_process, rows_of_all_processes, sum_over_processes
from vistok.spec import StreamSpec
from vistok_kernels import code_sums, nearest_code

_ESTIMATORS = {"straight_through": straight_through, "rotation_trick": rotation_trick}
# more micro-batches than anybody accumulates; beyond it someone forgot to call `update` and memory would run out
_MOST_PENDING = 1024


class VQ(Quantizer):
    """Replaces each latent by the nearest of K learned codes.

    Losses ``commitment`` (moves the encoder) and, with ``update="gradient"``, ``codebook`` (moves the codes) are mean
    squared distances over all elements, unweighted. With ``metric="cosine"`` latents and codes are scaled to
    length 1 first, and distances are between the scaled vectors.

    Source: van den Oord et al., Neural Discrete Representation Learning (2017), arXiv:1711.00937, section 3; cosine
    codes from Yu et al., Vector-quantized Image Modeling with Improved VQGAN (2021), arXiv:2110.04627, section 3.2;
    EMA codebook from Razavi et al. (2019), arXiv:1906.00446, section 2.1.

    Args:
        codebook_size: K, at least 1.
        dim: D, at least 1.
        metric: Distance that decides: ``euclid`` or ``cosine``.
        update: What moves the codes: ``gradient`` of the codebook loss, or ``ema`` of the latents that chose them.
        init: ``kmeans`` of the first training batch, or ``uniform`` in [-1/K, 1/K].
        revive_after: A code that no latent chose for this many optimizer steps is replaced by a random latent; 0 never.
        estimator: Gradient towards the latents: ``straight_through`` or ``rotation_trick``.
        decay: Of the moving averages, in [0, 1), where ``update`` is ``ema``.

    Shapes:
        latent (B, ..., D) -> quantized (B, ..., D), indices (B, ...) in [0, K); ties take the lowest index.

    Raises:
        ValueError: an argument out of its range; latents that are not finite.
    """

    training_buffers = frozenset({"age", "ema_counts", "ema_sums", "num_updates", "prepared"})
    age: Tensor
    ema_counts: Tensor
    ema_sums: Tensor
    num_updates: Tensor
    prepared: Tensor

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        metric: Literal["euclid", "cosine"] = "euclid",
        update: Literal["gradient", "ema"] = "gradient",
        init: Literal["kmeans", "uniform"] = "kmeans",
        revive_after: int = 0,
        estimator: Literal["straight_through", "rotation_trick"] = "straight_through",
        decay: float = 0.99,
    ) -> None:
        super().__init__()
        if codebook_size < 1 or dim < 1:
            raise ValueError(f"codebook_size and dim must be at least 1, they are {codebook_size} and {dim}")
        for name, value, choices in (
            ("metric", metric, ("euclid", "cosine")),
            ("update", update, ("gradient", "ema")),
            ("init", init, ("kmeans", "uniform")),
            ("estimator", estimator, tuple(_ESTIMATORS)),
        ):
            if value not in choices:
                raise ValueError(f"{name} is {value!r}, it must be one of {', '.join(choices)}")
        if not 0 <= decay < 1 or revive_after < 0:
            raise ValueError(
                f"decay must lie in [0, 1) and revive_after be at least 0, they are {decay} and {revive_after}"
            )
        self.codebook_size: int = codebook_size
        self.dim = dim
        self.metric, self.update_rule, self.init = metric, update, init
        self.revive_after, self.estimator, self.decay = revive_after, estimator, decay
        bound = 1.0 if metric == "cosine" else 1.0 / codebook_size
        table = torch.empty(codebook_size, dim).uniform_(-bound, bound)
        self.codebook = nn.Parameter(table, requires_grad=update == "gradient")
        self.register_buffer("age", torch.zeros(codebook_size, dtype=torch.int64))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("prepared", torch.tensor(init != "kmeans"))
        if update == "ema":
            self.register_buffer("ema_counts", torch.ones(codebook_size))
            self.register_buffer("ema_sums", self._scaled(table).clone())
        self._pending: list[tuple[Tensor, Tensor]] = []

    @property
    def loss_names(self) -> tuple[str, ...]:
        """``commitment``, and ``codebook`` where gradients move the codes."""
        return ("commitment", "codebook") if self.update_rule == "gradient" else ("commitment",)

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Finds the nearest codes; in training mode also notes who chose what, for ``update``."""
        latent = as_latent(latent, self.dim)
        with torch.autocast(latent.device.type, enabled=False):
            latent = self._scaled(latent)
            codebook = self._scaled(self.codebook.float())
            flat = latent.detach().reshape(-1, self.dim)
            indices = nearest_code(flat, codebook.detach(), self.metric)
            if self.training and (self.update_rule == "ema" or self.revive_after):
                self._note(flat, indices)
            indices = indices.reshape(latent.shape[:-1])
            codes = _look_up(indices, codebook)
            losses = {"commitment": F.mse_loss(latent, codes.detach())}
            if self.update_rule == "gradient":
                losses["codebook"] = F.mse_loss(codes, latent.detach())
            return QuantizerOutput(_ESTIMATORS[self.estimator](latent, codes.detach()), indices, losses)

    def decode(self, indices: Tensor) -> Tensor:
        """Looks the codes up: (B, ...) -> (B, ..., D), of length 1 where the metric is cosine."""
        return self._scaled(F.embedding(check_indices(indices, self.codebook_size), self.codebook.float()))

    @torch.no_grad()
    def prepare(self, latent: Tensor) -> None:
        """Sets the codebook to k-means centres of the latents (B, ..., D) of all processes, once in a lifetime."""
        if bool(self.prepared):
            return
        rows = rows_of_all_processes(self._scaled(as_latent(latent, self.dim)).reshape(-1, self.dim))
        centres = from_first_process(kmeans(rows, self.codebook_size, metric=self.metric))
        self._set_codes(slice(None), centres)
        self.prepared.fill_(True)

    @torch.no_grad()
    def update(self) -> None:
        """Moves the EMA codebook and revives dead codes, from the latents of all processes since the last call."""
        if not self._pending:
            return
        latents = torch.cat([latent for latent, _ in self._pending])
        counts, sums = code_sums(
            latents, torch.cat([indices for _, indices in self._pending]), self.codebook_size
        )
        self._pending = []
        counts = sum_over_processes(counts)
        if self.update_rule == "ema":
            self._move_average(counts, sum_over_processes(sums))
        self.num_updates += 1
        if self.revive_after:
            self.age = torch.where(counts > 0, torch.zeros_like(self.age), self.age + 1)
            self._revive(latents)

    @torch.no_grad()
    def loaded(self) -> None:
        """Starts the statistics from the loaded codes, so that training goes on instead of over."""
        self.prepared.fill_(True)
        self._set_codes(slice(None), self.codebook.detach().clone())

    def stream(self) -> StreamSpec:
        """Adds the metric to the stream's description."""
        return StreamSpec("pixel", "pixel", "VQ", self.codebook_size, self.dim, metric=self.metric)

    @classmethod
    def tiny(cls) -> VQ:
        """16 codes of dim 4."""
        return cls(16, 4)

    def _note(self, flat: Tensor, indices: Tensor) -> None:
        if len(self._pending) >= _MOST_PENDING:
            raise RuntimeError(
                f"{_MOST_PENDING} training passes without update(): call tokenizer.update() after each optimizer step"
            )
        self._pending.append((flat, indices))

    def _scaled(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1) if self.metric == "cosine" else vectors

    def _move_average(self, counts: Tensor, sums: Tensor) -> None:
        self.ema_counts.mul_(self.decay).add_(counts.float(), alpha=1 - self.decay)
        self.ema_sums.mul_(self.decay).add_(sums.float(), alpha=1 - self.decay)
        # a code that nobody chose keeps its place: sum and count fade together
        means = self.ema_sums / self.ema_counts.clamp(min=1e-8).unsqueeze(1)
        alive = (self.ema_counts > 1e-6).unsqueeze(1)
        self.codebook.copy_(torch.where(alive, self._scaled(means), self.codebook))

    def _revive(self, latents: Tensor) -> None:
        dead = self.age >= self.revive_after
        num_dead = int(dead.sum())
        if num_dead == 0:
            return
        rows = rows_of_all_processes(latents)
        generator = torch.Generator().manual_seed(int(self.num_updates))
        picks = torch.randperm(rows.shape[0], generator=generator)[:num_dead].to(rows.device)
        chosen = dead.nonzero().squeeze(1)[: picks.shape[0]]
        self._set_codes(chosen, rows[picks])
        self.age[chosen] = 0

    def _set_codes(self, where: slice | Tensor, vectors: Tensor) -> None:
        self.codebook[where] = vectors.to(self.codebook.dtype)
        if self.update_rule == "ema":
            self.ema_counts[where] = 1.0
            self.ema_sums[where] = vectors.float()


def _look_up(indices: Tensor, codebook: Tensor) -> Tensor:
    if indices.device.type == "cpu":
        return F.embedding(indices, codebook)
    # off the CPU a latent that is not finite has index -1: its vector is NaN, so that the loss tells
    codes = F.embedding(indices.clamp(min=0), codebook)
    return torch.where((indices < 0).unsqueeze(-1), torch.full_like(codes, float("nan")), codes)
