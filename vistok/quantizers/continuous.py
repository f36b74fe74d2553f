"""Bottlenecks without a codebook, under the same contract, so that a tokenizer needs no branch for them."""

from __future__ import annotations

import torch
from torch import Tensor

from vistok.quantizers.base import Quantizer, QuantizerOutput, as_latent


class Continuous(Quantizer):
    """A quantizer without indices: ``sample`` draws, ``forward`` in eval mode gives the mode."""

    codebook_size = None

    def decode(self, indices: Tensor) -> Tensor:
        """Refuses: there are no indices.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{type(self).__name__} is continuous: it has latents, not indices")


class Gaussian(Continuous):
    """A diagonal normal distribution: sampled in training, its mean in evaluation, held near N(0, 1) by loss ``kl``.

    ``kl`` is the divergence to N(0, 1) in nats, summed over the positions and channels of an image and averaged over
    the batch, which is what published weights such as 1e-6 refer to.

    Source: Kingma & Welling, Auto-Encoding Variational Bayes (2013), arXiv:1312.6114, appendix B; weighed as in Rombach
    et al. (2021), arXiv:2112.10752, section 3.1. The log variance is clamped to [-30, 20].

    Args:
        dim: D, channels of a sample.

    Shapes:
        latent (B, ..., 2 D), means then log variances -> quantized (B, ..., D), no indices.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, it is {dim}")
        self.dim = dim

    @property
    def dim_in(self) -> int:
        """2 D: means and log variances."""
        return 2 * self.dim

    @property
    def loss_names(self) -> tuple[str, ...]:
        """``kl``."""
        return ("kl",)

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Samples in training mode, takes the mean otherwise."""
        with torch.autocast(latent.device.type, enabled=False):
            mean, log_variance = self._split(latent)
            quantized = self._draw(mean, log_variance) if self.training else mean
            divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
            return QuantizerOutput(quantized, None, {"kl": divergence.sum() / latent.shape[0]})

    def sample(self, latent: Tensor) -> Tensor:
        """Draws from the distribution: (B, ..., 2 D) -> (B, ..., D)."""
        return self._draw(*self._split(latent))

    def moments(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the distribution: (B, ..., 2 D) -> twice (B, ..., D)."""
        mean, log_variance = self._split(latent)
        return mean, (0.5 * log_variance).exp()

    def _split(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = _finite(as_latent(latent, self.dim_in)).chunk(2, dim=-1)
        return mean, log_variance.clamp(-30, 20)

    @staticmethod
    def _draw(mean: Tensor, log_variance: Tensor) -> Tensor:
        return mean + torch.randn_like(mean) * (0.5 * log_variance).exp()

    @classmethod
    def tiny(cls) -> Gaussian:
        """Dim 4."""
        return cls(4)


class Identity(Continuous):
    """Passes latents on, with normal noise in training if asked for.

    Source: Zheng et al., Diffusion Transformers with Representation Autoencoders (2025), arXiv:2510.11690 (noise whose
    scale is drawn per image as ``abs(N(0, noise^2))``).

    Args:
        dim: D.
        noise: Standard deviation of the noise's scale, 0 for none.

    Shapes:
        latent (B, ..., D) -> quantized (B, ..., D), no indices, no losses.
    """

    def __init__(self, dim: int, noise: float = 0.0) -> None:
        super().__init__()
        if dim < 1 or noise < 0:
            raise ValueError(f"dim must be at least 1 and noise at least 0, they are {dim} and {noise}")
        self.dim, self.noise = dim, noise

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Adds noise in training mode."""
        latent = _finite(as_latent(latent, self.dim))
        return QuantizerOutput(self.sample(latent) if self.training else latent)

    def sample(self, latent: Tensor) -> Tensor:
        """The latents with noise: (B, ..., D) -> (B, ..., D)."""
        latent = as_latent(latent, self.dim)
        if self.noise == 0:
            return latent
        shape = (latent.shape[0],) + (1,) * (latent.ndim - 1)
        scale = self.noise * torch.randn(shape, device=latent.device).abs()
        return latent + scale * torch.randn_like(latent)

    @classmethod
    def tiny(cls) -> Identity:
        """Dim 4, a little noise."""
        return cls(4, noise=0.1)


def _finite(latent: Tensor) -> Tensor:
    if (
        latent.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not bool(latent.isfinite().all())
    ):
        raise ValueError("latents hold NaN or Inf: look for a diverged encoder or a bad image in the batch")
    return latent
