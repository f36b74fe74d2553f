"""Keeps the features that an image needs, and as many of them as it needs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vistok.backbones.base import Encoder, EncoderOutput
from vistok.backbones.sequence import SequenceTransformer, valid
from vistok.global_mean import mean_over_processes


class SelectingEncoder(Encoder):
    """Decides for every feature of another encoder whether it becomes a latent, and lets the kept ones take in the rest.

    The decision is drawn in training (Gumbel noise, gradients straight through) and the likelier one in evaluation; at
    least one feature stays. Kept features then attend to those that were dropped and to the kept ones before them, in
    raster order, so that no latent depends on a later one.

    The loss ``keep`` is the squared difference between the share of features that a batch keeps and ``keep``; in training
    mode that of the whole batch over all processes, by ``mean_over_processes``, whose number does not change it.

    Source: Jin et al., LaVIT (2023), arXiv:2309.04669, section 3.1; the predictor and the loss are those of Rao et al.,
    DynamicViT (2021), arXiv:2106.02034. Deviations: dropped features are read by masked self-attention, not by
    cross-attention in layers of its own.

    Args:
        trunk: Where features come from; on a grid.
        max_tokens: Most latents an image can have: positions of the trunk's grid at the size that it is trained on.
        keep: Share of features to keep, in (0, 1).
        depth: Blocks that merge.
        num_heads: Attention heads; they divide the trunk's channels.
        temperature: Of the drawn decision.

    Shapes:
        image (B, 3, H, W) -> latent (B, N, dim), N the most that an image of the batch keeps; lengths (B,).

    Raises:
        ValueError: a value out of its range, a trunk that gives no grid, or images with more features than ``max_tokens``.
    """

    topology = "ragged"
    order = "causal"
    loss_names = ("keep",)

    def __init__(
        self,
        trunk: Encoder,
        max_tokens: int,
        keep: float = 1 / 3,
        depth: int = 4,
        num_heads: int = 8,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < keep < 1 or temperature <= 0 or max_tokens < 1:
            raise ValueError(
                f"keep must be in (0, 1), temperature above 0 and max_tokens at least 1, "
                f"they are {keep}, {temperature} and {max_tokens}"
            )
        if trunk.topology != "2d":
            raise ValueError(f"the trunk must give a grid, {type(trunk).__name__} gives a sequence")
        self.trunk, self.num_tokens, self.keep, self.temperature = trunk, max_tokens, keep, temperature
        self.dim, self.factor = trunk.dim, trunk.factor
        half = trunk.dim // 2
        self.look = nn.Sequential(nn.LayerNorm(trunk.dim), nn.Linear(trunk.dim, 2 * half), nn.GELU())
        self.decide = nn.Sequential(nn.Linear(2 * half, half), nn.GELU(), nn.Linear(half, 1))
        self.merge = SequenceTransformer(trunk.dim, depth, num_heads)

    @property
    def multiple_of(self) -> int:
        """The trunk's."""
        return self.trunk.multiple_of

    def forward(self, image: Tensor) -> Tensor:
        """Encodes; use ``latents`` to learn how many there are of each image."""
        return self.latents(image).latent

    def latents(self, image: Tensor, pool: int | None = None) -> EncoderOutput:
        """Encodes."""
        self.check_pool(pool)
        features = self.trunk(image).flatten(1, 2)
        if features.shape[1] > self.num_tokens:
            raise ValueError(
                f"an image gives {features.shape[1]} features, max_tokens is {self.num_tokens}: take a smaller image"
            )
        kept, decision = self._decision(self._logits(features))
        # by 1, so that the gradient tells the predictor what each kept latent is worth
        merged = self.merge(features, self._mask(kept)) * decision[..., None].to(features.dtype)
        lengths = kept.sum(dim=1)
        longest = int(lengths.max())
        places = torch.argsort(~kept, dim=1, stable=True)[:, :longest, None]
        latent = merged.gather(1, places.expand(-1, -1, self.dim)) * valid(lengths, longest)[..., None]
        share = decision.mean()
        if self.training:
            share = mean_over_processes(share, decision.numel())
        loss = (share - self.keep) ** 2
        return EncoderOutput(latent, lengths, {"keep": loss})

    def _logits(self, features: Tensor) -> Tensor:
        """How likely each feature stays, from itself and from the mean of all: (B, N, dim) -> (B, N)."""
        own, shared = self.look(features).chunk(2, dim=-1)
        seen = torch.cat([own, shared.mean(dim=1, keepdim=True).expand_as(shared)], dim=-1)
        return self.decide(seen).squeeze(-1).float()  # type: ignore[no-any-return]

    def _decision(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Which features stay, as booleans, and as 1 and 0 with gradients towards the logits: twice (B, N)."""
        if self.training:
            drawn = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
            logits = logits + drawn.log() - (-drawn).log1p()
        soft = torch.sigmoid(logits / self.temperature)
        # the likeliest one stays whatever its logit says: an image has at least one latent
        best = torch.zeros_like(soft, dtype=torch.bool).scatter(1, logits.argmax(dim=1, keepdim=True), True)
        kept = (soft > 0.5) | best
        return kept, kept.float() + soft - soft.detach()

    def _mask(self, kept: Tensor) -> Tensor:
        """Rows see what was dropped, themselves, and what was kept before them: (B, 1, N, N)."""
        count = kept.shape[1]
        before = torch.ones(count, count, dtype=torch.bool, device=kept.device).tril()
        return (~kept[:, None, :] | before)[:, None]
