"""Codes drawn at random, with a gradient through the draw."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.quantizers.base import Quantizer, QuantizerOutput, as_latent, check_indices
from vistok.spec import StreamSpec
from vistok_kernels import codebook_probabilities, nearest_code

# 16 MiB of float32 for a block of rows x codes
_SCORES = 1 << 22


class Gumbel(Quantizer):
    """Draws a code with probability falling with its distance in training, takes the nearest in evaluation.

    The logit of a code is minus ``scale`` times its squared distance. Gumbel noise on the logits makes the greatest a
    draw; the softmax of the noisy logits over ``temperature`` carries the gradient to the latent and to every code. The
    noise of a block of latents comes from a seed and is drawn again in the backward pass, so no pass holds N x K numbers.

    Loss ``kl``: the divergence of a latent's distribution from the uniform one in nats, a mean over latents; without
    noise, and in training mode only.

    Source: Jang et al., Categorical Reparameterization with Gumbel-Softmax (2016), arXiv:1611.01144, section 2; as a
    quantizer Ramesh et al., Zero-Shot Text-to-Image Generation (2021), arXiv:2102.12092, section 2.1. Deviation: logits
    are distances to the codes, not K channels of an encoder, which would be an N x K tensor.

    Args:
        codebook_size: K, at least 1.
        dim: D, at least 1.
        temperature: Of the relaxation, above 0, at the start.
        final_temperature: At the end of the annealing.
        anneal_steps: Optimizer steps over which the temperature falls, geometrically; 0 keeps it.
        scale: Of the logits, above 0.
        hard: In training gives the drawn code, with the softmax's gradient; else the softmax-weighted sum itself.

    Shapes:
        latent (B, ..., D) -> quantized (B, ..., D), indices (B, ...) in [0, K).

    Raises:
        ValueError: an argument out of its range; latents that are not finite.
    """

    training_buffers = frozenset({"num_updates"})
    num_updates: Tensor

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        temperature: float = 1.0,
        final_temperature: float = 1 / 16,
        anneal_steps: int = 0,
        scale: float = 1.0,
        hard: bool = True,
    ) -> None:
        super().__init__()
        if min(codebook_size, dim) < 1 or anneal_steps < 0:
            raise ValueError(
                "codebook_size and dim must be at least 1 and anneal_steps at least 0, "
                f"they are {codebook_size}, {dim} and {anneal_steps}"
            )
        if not min(temperature, final_temperature, scale) > 0:
            raise ValueError(
                f"temperature, final_temperature and scale must be above 0, they are {temperature}, {final_temperature} and {scale}"
            )
        self.codebook_size: int = codebook_size
        self.dim = dim
        self.start, self.end, self.anneal_steps = temperature, final_temperature, anneal_steps
        self.scale, self.hard = scale, hard
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self._steps = 0
        self.register_load_state_dict_post_hook(_count_again)  # type: ignore[no-untyped-call]

    @property
    def temperature(self) -> float:
        """Of the relaxation, at this step."""
        if not self.anneal_steps:
            return self.start
        progress = min(1.0, self._steps / self.anneal_steps)
        return float(self.start * (self.end / self.start) ** progress)

    @property
    def loss_names(self) -> tuple[str, ...]:
        """``kl``."""
        return ("kl",)

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Draws in training mode, takes the nearest code otherwise."""
        latent = as_latent(latent, self.dim)
        with torch.autocast(latent.device.type, enabled=False):
            flat, codebook = latent.reshape(-1, self.dim), self.codebook.float()
            if not self.training:
                indices = nearest_code(flat, codebook).reshape(latent.shape[:-1])
                return QuantizerOutput(latent + (F.embedding(indices, codebook) - latent).detach(), indices)
            # a number of the host's generator: nothing waits for the device, and a restored run draws the same
            seed = int(torch.randint(1 << 62, (), dtype=torch.int64, device="cpu"))
            values, drawn = _Draw.apply(flat, codebook, self.scale, self.temperature, seed)  # type: ignore[no-untyped-call]
            if self.hard:
                values = values + (F.embedding(drawn, codebook) - values).detach()
            losses = {"kl": self._divergence(flat, codebook)}
            return QuantizerOutput(values.reshape(latent.shape), drawn.reshape(latent.shape[:-1]), losses)

    def decode(self, indices: Tensor) -> Tensor:
        """Looks the codes up: (B, ...) -> (B, ..., D)."""
        return F.embedding(check_indices(indices, self.codebook_size), self.codebook.float())

    @torch.no_grad()
    def update(self) -> None:
        """Counts the step, for the annealing."""
        if self.training:
            self._steps = int(self.num_updates) + 1
            self.num_updates += 1

    def stream(self) -> StreamSpec:
        """Adds the metric to the stream's description."""
        return StreamSpec("pixel", "pixel", "Gumbel", self.codebook_size, self.dim, metric="euclid")

    @classmethod
    def tiny(cls) -> Gumbel:
        """16 codes of dim 4."""
        return cls(16, 4)

    def _divergence(self, flat: Tensor, codebook: Tensor) -> Tensor:
        entropy, _ = codebook_probabilities(flat, codebook, self.scale, "euclid")
        divergence: Tensor = math.log(self.codebook_size) - entropy
        return divergence


def _count_again(quantizer: nn.Module, _: object) -> None:
    assert isinstance(quantizer, Gumbel)
    quantizer._steps = int(quantizer.num_updates)


def _row_blocks(num_rows: int, num_codes: int) -> Iterator[slice]:
    """Slices of rows such that a block of scores stays small."""
    step = max(1, _SCORES // num_codes)
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))


class _Draw(torch.autograd.Function):
    """The softmax of noisy logits over the temperature: its weighted sum of codes (N, D), and the greatest (N,)."""

    @staticmethod
    def forward(
        ctx: Any, latents: Tensor, codebook: Tensor, scale: float, temperature: float, seed: int
    ) -> tuple[Tensor, Tensor]:
        values = torch.empty_like(latents)
        indices = torch.empty(len(latents), dtype=torch.int64, device=latents.device)
        for rows in _row_blocks(len(latents), len(codebook)):
            weights, indices[rows] = _draw(latents[rows], codebook, scale, temperature, seed + rows.start)
            values[rows] = weights @ codebook
        ctx.save_for_backward(latents, codebook, values)
        ctx.settings = (scale, temperature, seed)
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        latents, codebook, values = ctx.saved_tensors
        scale, temperature, seed = ctx.settings
        to_latents, to_codebook = torch.zeros_like(latents), torch.zeros_like(codebook)
        for rows in _row_blocks(len(latents), len(codebook)):
            weights, _ = _draw(latents[rows], codebook, scale, temperature, seed + rows.start)
            upstream = gradients[0][rows]
            to_codebook.addmm_(weights.T, upstream)
            slope = upstream @ codebook.T - (upstream * values[rows]).sum(dim=1, keepdim=True)
            slope.mul_(weights)
            # a row of slopes sums to 0, so the latent's own square, which the logits leave out, has no part
            factor = 2 * scale / temperature
            to_latents[rows] = factor * (slope @ codebook)
            to_codebook.addmm_(slope.T, latents[rows], alpha=factor)
            to_codebook.addcmul_(slope.sum(dim=0).unsqueeze(1), codebook, value=-factor)
        return to_latents, to_codebook, None, None, None


def _draw(
    latents: Tensor, codebook: Tensor, scale: float, temperature: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Weights (R, K) and the index of the greatest (R,), from the seed alone."""
    noisy = torch.addmm(codebook.square().sum(dim=1), latents, codebook.T, beta=-scale, alpha=2 * scale)
    generator = torch.Generator(device=latents.device).manual_seed(seed)
    # minus the logarithm of an exponential draw is a Gumbel draw
    noise = torch.empty_like(noisy).exponential_(generator=generator)
    noisy -= noise.clamp_(min=torch.finfo(noise.dtype).tiny).log_()
    return noisy.div_(temperature).softmax(dim=1), noisy.argmax(dim=1)
