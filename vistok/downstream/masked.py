"""``masked``: a bidirectional transformer that fills in masked positions, many at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vistok.downstream.base import DEPTH, DROPOUT, NUM_HEADS, WIDTH, Batch, Drawn, spread
from vistok.downstream.discrete import DiscreteBackbone, starting_parts
from vistok.downstream.parts import Parts
from vistok.downstream.positions import Positions
from vistok.downstream.tokens import Tokens, positions
from vistok.downstream.vocabulary import Vocabulary
from vistok.layouts.transformer import INIT_STD, Transformer
from vistok.tokenizer import Tokenizer

STEPS = 12
CHOICE_TEMPERATURE = 4.5


class Masked(DiscreteBackbone):
    """Predicts masked positions from the others; trained at a share of masks that follows a cosine.

    It draws an image in 12 steps: all masked positions are filled, the surest stay, the others are masked again, and
    noise that fades blurs what is sure. Its bits per image are an upper bound: the expected cost over random orders,
    N / k times the nats of k masked positions for k uniform in [1, N], from four looks at each image.

    Source: Chang et al., MaskGIT (2022), arXiv:2202.04200, sections 3.2 and 3.3; the bound: Hoogeboom et al.,
    Autoregressive Diffusion Models (2021), arXiv:2110.02037, section 3. Several parts at a position: see ``Parts``.

    Args:
        vocabulary: Of the tokenizer's indices.
        parts: Read and score them.
        grid: How the positions lie: (h, w), or (N,).
        width: Channels, a multiple of ``num_heads``.
        depth: Blocks.
        num_heads: Attention heads.
        dropout: Of the embeddings and of each branch, in [0, 1).

    Shapes:
        parts (B, N, P) int64; N = h * w.
    """

    name = "masked"
    is_bound = True
    num_draws = 4

    def __init__(
        self,
        vocabulary: Vocabulary,
        parts: Parts,
        grid: tuple[int, ...],
        width: int = WIDTH,
        depth: int = DEPTH,
        num_heads: int = NUM_HEADS,
        dropout: float = DROPOUT,
    ) -> None:
        super().__init__((vocabulary,), (math.prod(grid),))
        self.parts = parts
        self.mask = nn.Parameter(torch.randn(width) * INIT_STD)
        self.positions = Positions(grid, width)
        self.trunk = Transformer(width, depth, num_heads, dropout)
        self.dropout = nn.Dropout(dropout)

    @classmethod
    def of(cls, tokenizer: Tokenizer, train: Tokens) -> Masked:
        """A model of a discrete tokenizer's tokens."""
        (vocabulary,), (parts,) = starting_parts(tokenizer, train)
        return cls(vocabulary, parts, positions(train.streams[0]))

    def hidden(self, parts: Tensor, masked: Tensor, tables: list[Tensor]) -> Tensor:
        """What scores each position: (B, N, P), masked (B, N) boolean -> (B, N, width)."""
        read = torch.where(masked[..., None], self.mask, self.parts.read(parts, tables))
        return self.trunk(self.dropout(read + self.positions()))  # type: ignore[no-any-return]

    def nats(self, parts: Tensor, masked: Tensor) -> Tensor:
        """What each masked position costs, 0 elsewhere: (B, N, P), (B, N) -> (B, N)."""
        tables = self.parts.embeddings()
        hidden = self.hidden(parts, masked, tables)
        # only masked positions are scored: they are often few, and scores are most of the work
        costs = self.parts.nats(hidden[masked], parts[masked], tables)
        return torch.zeros(masked.shape, device=costs.device).masked_scatter(masked, costs)

    def loss(self, batch: Batch) -> Tensor:
        """Mean nats of a masked position."""
        share = torch.cos(0.5 * math.pi * torch.rand(len(batch[0]), device=self.device))
        masked = self._masks((share * self.counts[0]).ceil().clamp_min(1))
        return self.nats(batch[0], masked).sum() / masked.sum()

    def costs(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """An upper bound of the bits of each image."""
        share = spread(len(batch[0]), generator).to(self.device)
        count = (share * self.counts[0]).floor() + 1
        nats = self.nats(batch[0], self._masks(count, generator)).sum(dim=1)
        return nats * self.counts[0] / count / math.log(2)

    def draw(self, count: int, generator: torch.Generator, on_share: Callable[[float], None]) -> Drawn:
        """Draws all positions and keeps the surest, a few more at each step."""
        tables, steps = self.parts.embeddings(), min(STEPS, self.counts[0])
        parts = torch.zeros(count, self.counts[0], len(tables), dtype=torch.int64, device=self.device)
        masked = torch.ones(count, self.counts[0], dtype=torch.bool, device=self.device)
        for step in range(1, steps + 1):
            hidden = self.hidden(parts, masked, tables)
            drawn, log_probability = self.parts.sample(hidden[masked], tables, generator)
            parts[masked] = drawn
            uniform = torch.rand(masked.shape, generator=generator).clamp_min(1e-9)
            gumbel = -(-uniform.log()).log().to(self.device)
            sureness = torch.full(masked.shape, torch.inf, device=self.device)
            sureness[masked] = log_probability
            sureness = sureness + CHOICE_TEMPERATURE * (1 - step / steps) * gumbel
            left = math.floor(math.cos(0.5 * math.pi * step / steps) * self.counts[0])
            masked = sureness.argsort(dim=1).argsort(dim=1) < left if step < steps else masked & False
            on_share(step / steps)
        return Drawn((self.vocabularies[0].join(parts),))

    def _masks(self, count: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """So many masked positions of each image, anywhere: (B,) -> (B, N)."""
        shape = (len(count), self.counts[0])
        order = torch.rand(shape, generator=generator).to(self.device) if generator else None
        order = torch.rand(shape, device=self.device) if order is None else order
        return order.argsort(dim=1).argsort(dim=1) < count[:, None]
