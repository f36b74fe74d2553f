"""``ar``: a causal transformer that predicts each position of an image from those before it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vistok.downstream.base import DEPTH, DROPOUT, NUM_HEADS, WIDTH, Batch, Drawn, nothing
from vistok.downstream.discrete import DiscreteBackbone
from vistok.downstream.parts import Parts
from vistok.downstream.tokens import Tokens
from vistok.downstream.transformer import INIT_STD, Positions, Transformer
from vistok.downstream.vocabulary import Vocabulary
from vistok.tokenizer import Tokenizer


class Autoregressive(DiscreteBackbone):
    """Predicts each position of an image from those before it, in the tokenizer's order; within it, part after part.

    It enters through what a tokenizer gives: a position is read as the sum of its parts' embeddings, which start from the
    post-quantization vectors, and the same embeddings, transposed, score the next. Its bits per image are exact.

    Source: Radford et al., Language Models are Unsupervised Multitask Learners (2019), section 2.3; several parts at a
    position: see ``Parts``. Deviation: rows and columns have learned positions that are added.

    Args:
        vocabulary: Of the tokenizer's indices.
        parts: Reads and scores them.
        positions: The token grid (h, w), or (N,).
        width: Channels, a multiple of ``num_heads``.
        depth: Blocks.
        num_heads: Attention heads.
        dropout: Of the embeddings and of each branch, in [0, 1).

    Shapes:
        parts (B, N, P) int64; N = h * w.
    """

    name = "ar"

    def __init__(
        self,
        vocabulary: Vocabulary,
        parts: Parts,
        positions: tuple[int, ...],
        width: int = WIDTH,
        depth: int = DEPTH,
        num_heads: int = NUM_HEADS,
        dropout: float = DROPOUT,
    ) -> None:
        super().__init__(vocabulary, parts, math.prod(positions))
        self.start = nn.Parameter(torch.randn(width) * INIT_STD)
        self.positions = Positions(positions, width)
        self.trunk = Transformer(width, depth, num_heads, dropout)
        self.dropout = nn.Dropout(dropout)

    @classmethod
    def of(cls, tokenizer: Tokenizer, train: Tokens) -> Autoregressive:
        """A model of a discrete tokenizer's tokens."""
        vocabulary = Vocabulary.of(tokenizer.spec.main)
        parts = Parts.of(tokenizer, vocabulary, vocabulary.split(train.values), WIDTH, NUM_HEADS)
        return cls(vocabulary, parts, train.positions)

    def hidden(self, parts: Tensor, tables: list[Tensor]) -> Tensor:
        """What scores each position, given those before it: (B, n, P), n < N -> (B, n + 1, width)."""
        read = self.parts.read(parts, tables)
        x = torch.cat([self.start.expand(len(parts), 1, -1), read], dim=1)
        # a position says which token is asked for, not which one is read
        return self.trunk(self.dropout(x + self.positions()[: x.shape[1]]), causal=True)  # type: ignore[no-any-return]

    def nats(self, parts: Tensor) -> Tensor:
        """What each position costs: (B, N, P) -> (B, N)."""
        tables = self.parts.embeddings()
        return self.parts.nats(self.hidden(parts[:, :-1], tables), parts, tables)

    def loss(self, batch: Batch) -> Tensor:
        """Mean nats of a position."""
        return self.nats(batch[0]).mean()

    def costs(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Bits of each image."""
        return self.nats(batch[0]).sum(dim=1) / math.log(2)

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0, on_share: Callable[[float], None] = nothing) -> Drawn:
        """Draws position after position from the whole distribution; in evaluation mode."""
        generator = torch.Generator().manual_seed(seed)
        was_training = self.training
        self.eval()
        tables = self.parts.embeddings()
        drawn = torch.zeros(count, 0, len(tables), dtype=torch.int64, device=self.device)
        for position in range(self.num_positions):
            last = self.hidden(drawn, tables)[:, -1]
            drawn = torch.cat([drawn, self.parts.sample(last, tables, generator)[0][:, None]], dim=1)
            on_share((position + 1) / self.num_positions)
        self.train(was_training)
        return Drawn(self._as_tokens(drawn))
