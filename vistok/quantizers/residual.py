"""Residual quantization: each stage quantizes what the stages before it left over."""

from __future__ import annotations

from collections.abc import Iterator
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
    without_groups,
)
from vistok.quantizers.vq import VQ
from vistok.spec import StreamSpec
from vistok_kernels import residual_codes


class Residual(Quantizer):
    """Several stages of one kind of quantizer; the quantized vector is the sum of what they give.

    The losses of all stages are averaged under their own names, so a weight means the same at any number of stages
    and every stage moves the encoder.

    Source: Lee et al., Autoregressive Image Generation using Residual Quantization (2022), arXiv:2203.01941, section 3.1;
    stage dropout after Zeghidour et al., SoundStream (2021), arXiv:2107.03312, section 3.3, here for each image.

    Args:
        stage: The quantizer of the first stage; a discrete one whose input and output have the same channels.
        num_stages: S, at least 1. Further stages are built with the same arguments.
        shared: One codebook for all stages instead of one each.
        stage_dropout: Share of the images in a training batch whose quantized vectors sum only the first n stages, n
            drawn from 1 to S - 1, in [0, 1]. Indices, losses and statistics still cover every stage, so processes stay
            in step.
        stage_scale: Stage number n works on what is left divided by stage_scale^n, in (0, 1]. Quantizers of a fixed
            range need it below 1: 0.5 for LFQ.

    Shapes:
        latent (B, ..., D) -> quantized (B, ..., D), indices (B, ..., S), first stage first; (B, ..., S G) for stages that
        give G indices each.

    Raises:
        ValueError: no stages, a continuous stage, or one that changes the number of channels.
    """

    def __init__(
        self,
        stage: Quantizer,
        num_stages: int,
        shared: bool = False,
        stage_dropout: float = 0.0,
        stage_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if num_stages < 1:
            raise ValueError(f"num_stages must be at least 1, it is {num_stages}")
        if not 0 <= stage_dropout <= 1 or not 0 < stage_scale <= 1:
            raise ValueError(
                f"stage_dropout must lie in [0, 1] and stage_scale in (0, 1], they are {stage_dropout} and {stage_scale}"
            )
        self.codebook_size: int = check_discrete(stage, "stage")
        if stage.dim_in != stage.dim:
            raise ValueError(f"a stage must keep its {stage.dim_in} channels, it gives {stage.dim}")
        others = [] if shared else [another(stage) for _ in range(num_stages - 1)]
        self.stages = nn.ModuleList([stage, *others])
        self.dim = stage.dim
        self.num_stages, self.num_groups = num_stages, num_stages * stage.num_groups
        self.stage_dropout, self.stage_scale = stage_dropout, stage_scale

    @property
    def dim_depthwise(self) -> int:
        """The stage's."""
        return self._stage(0).dim_depthwise

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Those of a stage."""
        return self._stage(0).loss_names

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Quantizes stage by stage."""
        latent = as_latent(latent, self.dim)
        left, quantized = latent, torch.zeros_like(latent)
        kept = self._kept_stages(latent)
        found = self._found(latent)
        indices, losses = [], []
        for number in range(self.num_stages):
            scale = self.stage_scale**number
            output, chosen = quantize(self._stage(number), left / scale, found, number)
            value = output.quantized.detach() * scale
            quantized = quantized + (value if kept is None else value * (number < kept))
            # the next stage sees a constant subtracted, so each stage's gradient reaches the latent once, undiminished
            left = left - value
            indices.append(chosen)
            losses.append(output.losses)
        # every stage passes the gradient straight through: the sum would count it once per stage
        quantized = latent + (quantized - latent).detach()
        return QuantizerOutput(quantized, torch.cat(indices, dim=-1), mean_losses(losses))

    def decode(self, indices: Tensor) -> Tensor:
        """Sums the vectors of the stages: (B, ..., n) -> (B, ..., D), of all or of the first ones.

        Indices of the first stages alone give the coarser vector that those make.
        """
        pieces = self._pieces(indices)
        vectors = [
            self._stage(n).decode(without_groups(self._stage(n), piece)) * self.stage_scale**n
            for n, piece in enumerate(pieces)
        ]
        return torch.stack(vectors).sum(dim=0)

    def depthwise(self, indices: Tensor) -> Tensor:
        """The vector of each index: (B, ..., S) -> (B, ..., S, D)."""
        pieces = self._pieces(indices)
        vectors = [self._stage(n).depthwise(piece) * self.stage_scale**n for n, piece in enumerate(pieces)]
        return torch.cat(vectors, dim=-2)

    @torch.no_grad()
    def prepare(self, latent: Tensor) -> None:
        """Prepares each stage with what the stages before it leave over. Collective."""
        for number, left in self._seen(latent):
            self._stage(number).prepare(left)

    @torch.no_grad()
    def revive(self, dead: Tensor, latent: Tensor) -> bool:
        """Revives in each stage from what it sees; shared stages, what is dead in all. Collective."""
        by_stage = dead.reshape(self.num_stages, -1, dead.shape[-1])
        if len(self.stages) < self.num_stages:
            seen = torch.cat([left for _, left in self._seen(latent)], dim=0)
            return self._stage(0).revive(by_stage.all(dim=0), seen)
        # every stage is asked, so that processes stay in step
        done = [self._stage(number).revive(by_stage[number], left) for number, left in self._seen(latent)]
        return all(done)

    def update(self) -> None:
        """Updates each stage. Collective."""
        for stage in self.stages:
            stage.update()  # type: ignore[operator]

    def stream(self) -> StreamSpec:
        """A stage's description, as a residual of S."""
        return replace(self._stage(0).stream(), num_groups=self.num_groups, combinator="residual")

    @classmethod
    def tiny(cls) -> Residual:
        """Two stages of the tiny VQ."""
        return cls(VQ.tiny(), 2)

    def _stage(self, number: int) -> Quantizer:
        stage = self.stages[min(number, len(self.stages) - 1)]
        assert isinstance(stage, Quantizer)
        return stage

    def _found(self, latent: Tensor) -> tuple[Tensor, ...] | None:
        """The indices of each stage (B, ...), where one op can find them all."""
        tables = codebooks_of(self.stages) if self.stage_scale == 1 else None
        if tables is None:
            return None
        indices, _ = residual_codes(
            latent.detach().reshape(-1, self.dim), tables.expand(self.num_stages, -1, -1)
        )
        return indices.reshape(*latent.shape[:-1], self.num_stages).unbind(dim=-1)

    def _seen(self, latent: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Each stage's number and what it has to quantize; a stage may be changed before the next is asked for."""
        left = as_latent(latent, self.dim)
        for number in range(self.num_stages):
            scale = self.stage_scale**number
            yield number, left / scale
            stage = self._stage(number)
            was_training = stage.training
            stage.eval()  # so that it notes no statistics
            left = left - stage(left / scale).quantized * scale
            stage.train(was_training)

    def _kept_stages(self, latent: Tensor) -> Tensor | None:
        """How many stages each image's sum keeps, (B, 1, ..., 1); None where nothing is dropped."""
        if not self.training or self.stage_dropout == 0 or self.num_stages == 1:
            return None
        shape = (latent.shape[0],) + (1,) * (latent.ndim - 1)
        fewer = torch.randint(1, self.num_stages, shape, device=latent.device)
        dropped = torch.rand(shape, device=latent.device) < self.stage_dropout
        return torch.where(dropped, fewer, torch.full_like(fewer, self.num_stages))

    def _pieces(self, indices: Tensor) -> tuple[Tensor, ...]:
        per_stage = self._stage(0).num_groups
        given = indices.shape[-1]
        if given % per_stage or not 0 < given <= self.num_groups:
            raise ValueError(f"indices have {given // per_stage} stages, the quantizer {self.num_stages}")
        return torch.split(check_indices(indices, self.codebook_size), per_stage, dim=-1)
