"""Vector quantization with a codebook of vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.quantizers.base import Quantizer, QuantizerOutput, as_latent, check_indices
from vistok.quantizers.codebooks import (
    STARTS,
    Codebook,
    FreeCodebook,
    MovingAverage,
    read_table,
)
from vistok.quantizers.estimators import IndexSoftmax, rotation_trick, straight_through
from vistok.quantizers.kmeans import kmeans
from vistok.quantizers.statistics import from_first_process, rows_of_all_processes, sum_over_processes
from vistok.spec import StreamSpec
from vistok_kernels import code_sums, vq_step

_ESTIMATORS: dict[object, Callable[[Tensor, Tensor], Tensor]] = {
    "straight_through": straight_through,
    "rotation_trick": rotation_trick,
}
# more micro-batches than anybody accumulates; beyond it someone forgot to call `update` and memory would run out
_MOST_PENDING = 1024


class VQ(Quantizer):
    """Replaces each latent by the nearest of K codes.

    Losses ``commitment`` (moves the encoder) and, where a gradient moves the codes, ``codebook`` are mean squared
    distances over all elements, unweighted. With ``metric="cosine"`` latents and codes are scaled to length 1 first,
    and distances are between the scaled vectors. ``estimator="index_softmax"`` adds loss ``index``, the same distance
    with a gradient to the encoder and, through the softmax over all codes, to every code.

    Source: van den Oord et al., Neural Discrete Representation Learning (2017), arXiv:1711.00937, section 3; cosine
    codes from Yu et al., Vector-quantized Image Modeling with Improved VQGAN (2021), arXiv:2110.04627, section 3.2;
    index softmax and its two quantization losses from Shi et al., Scalable Image Tokenization with Index
    Backpropagation Quantization (2024), arXiv:2412.02692, section 3.2, which takes ``metric="dot"``.

    Args:
        codebook_size: K, at least 1.
        dim: D, at least 1.
        metric: What decides: the least ``euclid`` distance, the greatest ``cosine``, or, with index softmax only, the
            greatest ``dot`` product.
        update: What moves free codes: ``gradient``, or a ``MovingAverage`` (``ema``: with its default decay) of the
            latents that chose them.
        init: Where raw codes start: ``kmeans`` of the first training batch, ``uniform`` in [-1/K, 1/K] (cosine:
            [-1, 1]), ``normal`` of about length 1, or a file with a table (K, D), .npy or .safetensors. A file's name
            is not saved with a tokenizer, its codes are.
        revive_after: A code that no latent chose for this many optimizer steps is replaced by a random latent; 0 never.
        estimator: Gradient towards the latents: ``straight_through``, ``rotation_trick``, or ``IndexSoftmax``
            (``index_softmax``: with its default scale).
        codebook: A template of another kind of codes than free ones: ``FrozenCodebook``, ``ProjectedCodebook`` or
            ``BridgeCodebook``.

    Shapes:
        latent (B, ..., D) -> quantized (B, ..., D), indices (B, ...) in [0, K); ties take the lowest index.

    Raises:
        ValueError: an argument out of its range or at odds with another; latents that are not finite.
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
        metric: Literal["euclid", "cosine", "dot"] = "euclid",
        update: Literal["gradient", "ema"] | MovingAverage = "gradient",
        init: str = "kmeans",
        revive_after: int = 0,
        estimator: Literal["straight_through", "rotation_trick", "index_softmax"]
        | IndexSoftmax = "straight_through",
        codebook: Codebook | None = None,
    ) -> None:
        super().__init__()
        if codebook_size < 1 or dim < 1 or revive_after < 0:
            raise ValueError(
                "codebook_size and dim must be at least 1 and revive_after at least 0, "
                f"they are {codebook_size}, {dim} and {revive_after}"
            )
        self.codebook_size: int = codebook_size
        self.dim = dim
        self.metric, self.init, self.revive_after = metric, init, revive_after
        self.average = _average(update)
        self.estimator = IndexSoftmax() if estimator == "index_softmax" else estimator
        template = FreeCodebook() if codebook is None else codebook
        self._check_choices(template)
        self.codes = template.sized(dim)
        self.codebook = nn.Parameter(
            self._start(init, template.raw_dim(dim)),
            requires_grad=self.average is None and template.raw_learned,
        )
        self.register_buffer("age", torch.zeros(codebook_size, dtype=torch.int64))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("prepared", torch.tensor(init != "kmeans"))
        if self.average is not None:
            self.register_buffer("ema_counts", torch.ones(codebook_size))
            self.register_buffer("ema_sums", self._scaled(self.codebook.detach()).clone())
        self._pending = _Pending()

    @property
    def loss_names(self) -> tuple[str, ...]:
        """``commitment``; ``codebook`` where gradients move the codes; ``index`` of index softmax."""
        names = ("commitment", "codebook") if self._learns_by_gradient else ("commitment",)
        return (*names, "index") if isinstance(self.estimator, IndexSoftmax) else names

    @property
    def replaceable(self) -> bool:
        """Whether a combinator's op may choose for it: it chooses the nearest of ``table()``, and nobody changes or watches ``forward``."""
        watched = bool(self._forward_hooks or self._forward_pre_hooks)
        return type(self) is VQ and not watched and not isinstance(self.estimator, IndexSoftmax)

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Finds the nearest codes; in training mode also notes who chose what, for ``update``."""
        return self.assign(latent)

    def assign(self, latent: Tensor, indices: Tensor | None = None) -> QuantizerOutput:
        """What ``forward`` gives, with indices that a combinator's search has found already: (B, ..., D), (B, ...)."""
        latent = as_latent(latent, self.dim)
        with torch.autocast(latent.device.type, enabled=False):
            latent = self._scaled(latent)
            if isinstance(self.estimator, IndexSoftmax):
                return self._softmax(latent, self.estimator)
            # where the codes depend on each other the gradient goes through all, else to the chosen ones alone
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.codes.entangled):
                table = self.table()
            codes, flat_indices, error, counts, sums = vq_step(
                latent.reshape(-1, self.dim),
                table,
                "cosine" if self.metric == "cosine" else "euclid",
                indices=None if indices is None else indices.reshape(-1),
                statistics=self._notes,
            )
            if self._notes:
                self._note(latent.detach(), counts, sums)
            indices, codes = flat_indices.reshape(latent.shape[:-1]), codes.reshape(latent.shape)
            losses = {"commitment": error / latent.numel()}
            if self._learns_by_gradient:
                moved = codes if self.codes.entangled else self._looked_up(indices)
                losses["codebook"] = F.mse_loss(moved, latent.detach())
            return QuantizerOutput(_ESTIMATORS[self.estimator](latent, codes.detach()), indices, losses)

    def decode(self, indices: Tensor) -> Tensor:
        """Looks the codes up: (B, ...) -> (B, ..., D), of length 1 where the metric is cosine."""
        with torch.autocast(indices.device.type, enabled=False):
            return self._looked_up(check_indices(indices, self.codebook_size))

    def table(self) -> Tensor:
        """All codes (K, D) in float32, as they are compared: of length 1 where the metric is cosine."""
        return self._scaled(self.codes.table(self.codebook))

    @torch.no_grad()
    def set_codebook(self, vectors: Tensor) -> None:
        """Starts the raw codes at given vectors (K, D), instead of at k-means centres.

        Raises:
            ValueError: another shape, or values that are not finite.
        """
        if vectors.shape != self.codebook.shape or not bool(vectors.isfinite().all()):
            raise ValueError(
                f"codes must be finite and of shape {tuple(self.codebook.shape)}, these are {tuple(vectors.shape)}"
            )
        self._set_codes(slice(None), vectors)
        self.prepared.fill_(True)

    @torch.no_grad()
    def prepare(self, latent: Tensor) -> None:
        """Sets the codebook to k-means centres of the latents (B, ..., D) of all processes, once in a lifetime."""
        if bool(self.prepared):
            return
        rows = rows_of_all_processes(self._scaled(as_latent(latent, self.dim)).reshape(-1, self.dim))
        metric = "cosine" if self.metric == "cosine" else "euclid"
        centres = from_first_process(kmeans(rows, self.codebook_size, metric=metric))
        self._set_codes(slice(None), centres)
        self.prepared.fill_(True)

    @torch.no_grad()
    def update(self) -> None:
        """Moves averaged codes and revives dead ones, from the latents of all processes since the last call."""
        if self._pending.counts is None or self._pending.sums is None:
            return
        counts, sums, rows = self._pending.counts, self._pending.sums, self._pending.rows
        self._pending = _Pending()
        counts = sum_over_processes(counts)
        if self.average is not None:
            self._move_average(self.average.decay, counts, sum_over_processes(sums))
        self.num_updates += 1
        if self.revive_after:
            self.age = torch.where(counts > 0, torch.zeros_like(self.age), self.age + 1)
            self._replace(self.age >= self.revive_after, torch.cat(rows))

    @torch.no_grad()
    def revive(self, dead: Tensor, latent: Tensor) -> bool:
        """Replaces dead codes (1, K) by random latents (B, ..., D) of all processes; not where codes move only together."""
        if not self.codes.settable:
            return False
        rows = self._scaled(as_latent(latent, self.dim)).reshape(-1, self.dim)
        self._replace(dead.reshape(-1), rows)
        return True

    @torch.no_grad()
    def loaded(self) -> None:
        """Starts the statistics from the loaded codes, so that training goes on instead of over."""
        self.prepared.fill_(True)
        self._set_codes(slice(None), self.codebook.detach().clone())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> VQ:
        # averages over hundreds of steps stay in float32 where a model is cast to half precision
        before = {name: getattr(self, name, None) for name in ("ema_counts", "ema_sums")}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in before.items():
            if value is not None and getattr(self, name).dtype != value.dtype:
                setattr(self, name, value.to(getattr(self, name).device))
        return self

    def stream(self) -> StreamSpec:
        """Adds the metric to the stream's description."""
        return StreamSpec("pixel", "pixel", "VQ", self.codebook_size, self.dim, metric=self.metric)

    def to_config(self) -> dict[str, Any]:
        """As recorded, but without the name of a file that codes came from: the codes themselves are saved."""
        config = super().to_config()
        if self.init not in STARTS:
            config["args"]["init"] = "uniform"
        return config

    @classmethod
    def tiny(cls) -> VQ:
        """16 codes of dim 4."""
        return cls(16, 4)

    @property
    def _learns_by_gradient(self) -> bool:
        return self.average is None and self.codes.learned

    def _check_choices(self, codebook: Codebook) -> None:
        softmax = isinstance(self.estimator, IndexSoftmax)
        for name, value, choices in (
            ("metric", self.metric, ("euclid", "cosine", "dot")),
            ("estimator", "index_softmax" if softmax else self.estimator, (*_ESTIMATORS, "index_softmax")),
        ):
            if value not in choices:
                raise ValueError(f"{name} is {value!r}, it must be one of {', '.join(map(str, choices))}")
        if self.metric == "dot" and not softmax:
            raise ValueError(
                "metric is 'dot', which needs estimator='index_softmax': no other measures products"
            )
        kind = type(codebook).__name__
        if (self.average is not None or self.revive_after) and not codebook.settable:
            raise ValueError(
                f"update and revive_after move single codes, which a {kind} has not: use a FreeCodebook, or leave them out"
            )
        if softmax and (self.average is not None or not codebook.learned):
            raise ValueError(
                "estimator 'index_softmax' moves every code by gradient: use update='gradient' and learned codes"
            )
        if self.init == "kmeans" and codebook.raw_dim(self.dim) != self.dim:
            raise ValueError(
                f"init is 'kmeans', which gives codes of dim {self.dim}, the {kind} has raw codes of dim "
                f"{codebook.raw_dim(self.dim)}: use init='normal' or a file"
            )

    def _start(self, init: str, dim: int) -> Tensor:
        shape = (self.codebook_size, dim)
        if init == "normal":
            return torch.randn(shape) / math.sqrt(dim)
        if init in STARTS:
            bound = 1.0 if self.metric == "cosine" else 1.0 / self.codebook_size
            return torch.empty(shape).uniform_(-bound, bound)
        table = read_table(init)
        if table.shape != shape:
            raise ValueError(f"init {init!r} holds codes of shape {tuple(table.shape)}, they must be {shape}")
        return table

    def _looked_up(self, indices: Tensor) -> Tensor:
        if indices.device.type != "cpu":
            # -1 marks a latent that is not finite; the commitment loss is NaN for it
            indices = indices.clamp(min=0)
        return self._scaled(self.codes.lookup(self.codebook, indices))

    def _softmax(self, latent: Tensor, estimator: IndexSoftmax) -> QuantizerOutput:
        flat, table = latent.reshape(-1, self.dim), self.table()
        values, flat_indices = estimator(flat, table, self.metric)
        if self._notes:
            self._note(latent.detach(), *code_sums(flat, flat_indices, self.codebook_size))
        indices, quantized = flat_indices.reshape(latent.shape[:-1]), values.reshape(latent.shape)
        codes = _look_up(indices, table)
        losses = {
            "commitment": F.mse_loss(latent, codes.detach()),
            "codebook": F.mse_loss(codes, latent.detach()),
            "index": F.mse_loss(quantized, latent),
        }
        return QuantizerOutput(quantized, indices, losses)

    @property
    def _notes(self) -> bool:
        return self.training and (self.average is not None or self.revive_after > 0)

    @torch.no_grad()
    def note(self, latent: Tensor, indices: Tensor) -> None:
        """Notes for ``update`` who chose what where a combinator's op has made the choice: (B, ..., D), (B, ...).

        As ``forward`` does: in training mode, and where something is moved by it.
        """
        if self._notes:
            latent = self._scaled(as_latent(latent, self.dim))
            flat = latent.reshape(-1, self.dim)
            self._note(latent, *code_sums(flat, indices.reshape(-1), self.codebook_size))

    def _note(self, latent: Tensor, counts: Tensor, sums: Tensor) -> None:
        pending = self._pending
        if pending.num_passes >= _MOST_PENDING:
            raise RuntimeError(
                f"{_MOST_PENDING} training passes without update(): call tokenizer.update() after each optimizer step"
            )
        pending.num_passes += 1
        pending.counts = counts if pending.counts is None else pending.counts + counts
        pending.sums = sums if pending.sums is None else pending.sums + sums
        if self.revive_after:
            pending.rows.append(latent.reshape(-1, self.dim))

    def _scaled(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1) if self.metric == "cosine" else vectors

    def _move_average(self, decay: float, counts: Tensor, sums: Tensor) -> None:
        self.ema_counts.mul_(decay).add_(counts.float(), alpha=1 - decay)
        self.ema_sums.mul_(decay).add_(sums.float(), alpha=1 - decay)
        # a code that nobody chose keeps its place: sum and count fade together
        means = self.ema_sums / self.ema_counts.clamp(min=1e-8).unsqueeze(1)
        alive = (self.ema_counts > 1e-6).unsqueeze(1)
        self.codebook.copy_(torch.where(alive, self._scaled(means), self.codebook))

    def _replace(self, dead: Tensor, latents: Tensor) -> None:
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
        self.codebook[where] = vectors.to(self.codebook)
        if self.average is not None:
            self.ema_counts[where] = 1.0
            self.ema_sums[where] = vectors.float()


@dataclass
class _Pending:
    """What training passes since the last ``update`` gave: counts (K,) and sums (K, D), and the latents where codes are revived."""

    num_passes: int = 0
    counts: Tensor | None = None
    sums: Tensor | None = None
    rows: list[Tensor] = field(default_factory=list)


def _average(update: object) -> MovingAverage | None:
    if update == "gradient":
        return None
    if update == "ema":
        return MovingAverage()
    if isinstance(update, MovingAverage):
        return update
    raise ValueError(f"update is {update!r}, it must be gradient, ema or a MovingAverage")


def _look_up(indices: Tensor, codebook: Tensor) -> Tensor:
    if indices.device.type == "cpu":
        return F.embedding(indices, codebook)
    # off the CPU a latent that is not finite has index -1: its vector is NaN, so that the loss tells
    codes = F.embedding(indices.clamp(min=0), codebook)
    return torch.where((indices < 0).unsqueeze(-1), torch.full_like(codes, float("nan")), codes)
