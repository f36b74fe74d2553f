"""Residual quantization: each stage quantizes what the stages before it left over."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from vistok.quantizers.base import Quantizer, QuantizerOutput, as_latent, check_indices
from vistok.spec import StreamSpec


class Residual(Quantizer):
    """Several stages of one kind of quantizer; the quantized vector is the sum of what they give.

    The losses of all stages are averaged under their own names, so a weight means the same at any number of stages
    and every stage moves the encoder.

    Source: Lee et al., Autoregressive Image Generation using Residual Quantization (2022), arXiv:2203.01941, section 3.1.

    Args:
        stage: The quantizer of the first stage; a discrete one whose input and output have the same channels.
        num_stages: S, at least 1. Further stages are built with the same arguments.
        shared: One codebook for all stages instead of one each.

    Shapes:
        latent (B, ..., D) -> quantized (B, ..., D), indices (B, ..., S), first stage first.

    Raises:
        ValueError: no stages, or a stage that is continuous or a combinator itself.
    """

    def __init__(self, stage: Quantizer, num_stages: int, shared: bool = False) -> None:
        super().__init__()
        if num_stages < 1:
            raise ValueError(f"num_stages must be at least 1, it is {num_stages}")
        if stage.codebook_size is None or stage.num_groups != 1:
            raise ValueError(f"a stage must give one index per position, {type(stage).__name__} does not")
        others = [] if shared else [type(stage)(**stage._arguments) for _ in range(num_stages - 1)]
        self.stages = nn.ModuleList([stage, *others])
        self.dim = stage.dim
        self.codebook_size: int = stage.codebook_size
        self.num_groups = num_stages

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Those of a stage."""
        return self._stage(0).loss_names

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Quantizes stage by stage."""
        left = as_latent(latent, self.dim)
        quantized = torch.zeros_like(left)
        indices: list[Tensor] = []
        losses = {name: left.new_zeros(()) for name in self.loss_names}
        for number in range(self.num_groups):
            output = self._stage(number)(left)
            quantized = quantized + output.quantized
            # the next stage sees a constant subtracted, so each stage's gradient reaches the latent once, undiminished
            left = left - output.quantized.detach()
            assert output.indices is not None
            indices.append(output.indices)
            for name, value in output.losses.items():
                losses[name] = losses[name] + value / self.num_groups
        # every stage passes the gradient straight through: the sum would count it once per stage
        value = as_latent(latent, self.dim)
        return QuantizerOutput(value + (quantized - value).detach(), torch.stack(indices, dim=-1), losses)

    def decode(self, indices: Tensor) -> Tensor:
        """Sums the vectors of all stages: (B, ..., S) -> (B, ..., D)."""
        return self.depthwise(indices).sum(dim=-2)

    def depthwise(self, indices: Tensor) -> Tensor:
        """The vector of each stage: (B, ..., S) -> (B, ..., S, D)."""
        if indices.shape[-1] != self.num_groups:
            raise ValueError(f"indices have {indices.shape[-1]} stages, the quantizer {self.num_groups}")
        indices = check_indices(indices, self.codebook_size)
        return torch.stack([self._stage(n).decode(indices[..., n]) for n in range(self.num_groups)], dim=-2)

    @torch.no_grad()
    def prepare(self, latent: Tensor) -> None:
        """Prepares each stage with what the stages before it leave over. Collective."""
        was_training = self.training
        self.eval()  # so that no stage notes statistics
        left = as_latent(latent, self.dim)
        for number in range(self.num_groups):
            self._stage(number).prepare(left)
            left = left - self._stage(number)(left).quantized
        self.train(was_training)

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
        from vistok.quantizers.vq import VQ

        return cls(VQ.tiny(), 2)

    def _stage(self, number: int) -> Quantizer:
        stage = self.stages[min(number, len(self.stages) - 1)]
        assert isinstance(stage, Quantizer)
        return stage
