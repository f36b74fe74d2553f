"""Entropy terms of a choice among the codes of a codebook."""

from __future__ import annotations

import torch
from torch import Tensor

from vistok.global_mean import mean_over_processes
from vistok.quantizers.base import Quantizer, QuantizerOutput
from vistok.quantizers.vq import VQ
from vistok.spec import StreamSpec
from vistok_kernels import codebook_probabilities, distribution_entropy


def entropy_losses(latents: Tensor, codebook: Tensor, scale: float, metric: str) -> dict[str, Tensor]:
    """``sample_entropy``: of each latent's softmax over codes, mean; ``batch_entropy``: of their mean, negated; in nats.

    The second is over the latents of all processes, by ``mean_over_processes``. Minimising both makes every choice
    sure and all codes equally likely.

    Args:
        latents: (N, D).
        codebook: (K, D).
        scale: Factor of the scores: one over the temperature.
        metric: ``dot``, ``cosine``, or ``euclid`` for the negated squared distance.

    Source: Yu et al., Language Model Beats Diffusion (2023), arXiv:2310.05737, section 3.1.
    """
    sample, probabilities = codebook_probabilities(latents, codebook, scale, metric)
    batch = distribution_entropy(mean_over_processes(probabilities, latents.shape[0]))
    return {"sample_entropy": sample, "batch_entropy": -batch}


class CodeEntropy(Quantizer):
    """Adds entropy terms to a VQ: losses ``sample_entropy`` and ``batch_entropy``, in nats, in training mode.

    ``batch_entropy`` is the negated entropy of the mean over the batch of each latent's softmax over codes, also called
    a diversity loss; it is the same at any number of processes. Without this wrapper no such term is computed.

    Source: Yu et al., Language Model Beats Diffusion (2023), arXiv:2310.05737, section 3.1; for learned codes
    Shi et al. (2024), arXiv:2412.02692, section 3.3, at temperature 0.01.

    Args:
        quantizer: What to wrap.
        temperature: Of the softmax over ``quantizer.metric``'s scores, above 0.

    Shapes:
        As the quantizer's.
    """

    def __init__(self, quantizer: VQ, temperature: float = 0.01) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, it is {temperature}")
        self.inner = quantizer
        self.temperature = temperature
        self.dim = quantizer.dim
        self.codebook_size: int = quantizer.codebook_size

    @property
    def loss_names(self) -> tuple[str, ...]:
        """The wrapped quantizer's and the two entropies."""
        return (*self.inner.loss_names, "sample_entropy", "batch_entropy")

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Quantizes; in training mode also measures."""
        output: QuantizerOutput = self.inner(latent)
        if self.training:
            with torch.autocast(latent.device.type, enabled=False):
                flat = latent.float().reshape(-1, self.dim)
                table = self.inner.table()
                output.losses.update(entropy_losses(flat, table, 1 / self.temperature, self.inner.metric))
        return output

    def decode(self, indices: Tensor) -> Tensor:
        """As the wrapped quantizer."""
        return self.inner.decode(indices)

    def prepare(self, latent: Tensor) -> None:
        """As the wrapped quantizer. Collective."""
        self.inner.prepare(latent)

    def update(self) -> None:
        """As the wrapped quantizer. Collective."""
        self.inner.update()

    def stream(self) -> StreamSpec:
        """The wrapped quantizer's: a consumer sees no difference."""
        return self.inner.stream()

    @classmethod
    def tiny(cls) -> CodeEntropy:
        """Over the tiny VQ."""
        return cls(VQ.tiny(), 1.0)
