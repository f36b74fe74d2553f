"""Reads and scores the parts of positions: tables that start from a tokenizer's vectors, tied between both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.downstream.baseline import frequencies
from vistok.downstream.vocabulary import Vocabulary
from vistok.layouts.transformer import INIT_STD, AlongGroups


class PartTable(nn.Module):
    """The embeddings of one part's values, which read them and, transposed, score them.

    An embedding is a linear map of the value's post-quantization vector (``tok.embed``) plus a small learned vector of
    its own. The bias of the scores starts at the log frequencies, so that training starts at the unigram loss.

    Source: tied embeddings: Press and Wolf (2017), arXiv:1608.05859.

    Args:
        vectors: (K, d), of which only the directions from the mean matter; None: no vectors, all is learned.
        shares: (K,) shares of the values in the training set, positive.
        width: Channels of an embedding.

    Shapes:
        -> (K, width).
    """

    vectors: Tensor

    def __init__(self, vectors: Tensor | None, shares: Tensor, width: int) -> None:
        super().__init__()
        self.size = len(shares)
        self.own = nn.Embedding(self.size, width)
        self.bias = nn.Parameter(shares.detach().float().log())
        nn.init.normal_(self.own.weight, std=INIT_STD)
        self.from_vectors: nn.Linear | None = None
        if vectors is not None:
            centred = vectors.detach().float() - vectors.detach().float().mean(dim=0)
            scale = centred.square().mean().sqrt().clamp_min(1e-8)
            self.register_buffer("vectors", centred / scale)
            self.from_vectors = nn.Linear(vectors.shape[1], width, bias=False)
            nn.init.normal_(self.from_vectors.weight, std=INIT_STD / vectors.shape[1] ** 0.5)

    def forward(self) -> Tensor:
        """The whole table."""
        table: Tensor = self.own.weight
        return table if self.from_vectors is None else self.from_vectors(self.vectors) + table


class Parts(nn.Module):
    """All parts of a position: one sum of embeddings in, and out the joint distribution, one part after the other.

    A single part is scored from the position's hidden vector. Several are scored by ``AlongGroups`` of one block.

    Args:
        tables: One for each part, in order.
        width: Channels of embeddings and hidden vectors.
        num_heads: Attention heads along the parts.

    Shapes:
        parts (..., P) int64, hidden (..., width).
    """

    def __init__(self, tables: Sequence[PartTable], width: int, num_heads: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(tables)
        self.along = AlongGroups(len(tables), width, 1, num_heads) if len(tables) > 1 else None

    @classmethod
    def of(
        cls,
        vectors: Sequence[Tensor | None],
        vocabulary: Vocabulary,
        train: Tensor,
        width: int,
        num_heads: int,
    ) -> Parts:
        """Parts that start from the vectors of their values and from training parts (n, N, P)."""
        tables = [
            PartTable(vectors[place], frequencies(train[..., place], size), width)
            for place, size in enumerate(vocabulary.sizes)
        ]
        return cls(tables, width, num_heads)

    def embeddings(self) -> list[Tensor]:
        """The (K, width) table of each part; make them once and hand them on."""
        return [table() for table in self.tables]

    def read(self, parts: Tensor, tables: list[Tensor]) -> Tensor:
        """The sum of the parts' embeddings: (..., P) -> (..., width)."""
        total = F.embedding(parts[..., 0], tables[0])
        for place, table in enumerate(tables[1:], start=1):
            total = total + F.embedding(parts[..., place], table)
        return total

    def nats(self, hidden: Tensor, parts: Tensor, tables: list[Tensor]) -> Tensor:
        """What the parts of each position cost: (..., width), (..., P) -> (...)."""
        cost = torch.zeros((), device=hidden.device)
        for place, state in enumerate(self._states(hidden, parts, tables)):
            logits = self._logits(state, place, tables)
            target = parts[..., place].flatten()
            nats = F.cross_entropy(logits.flatten(0, -2), target, reduction="none")
            cost = cost + nats.view(parts.shape[:-1])
        return cost

    def sample(
        self, hidden: Tensor, tables: list[Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draws the parts of positions and gives their log probability: (..., width) -> (..., P), (...)."""
        shape, hidden = hidden.shape[:-1], hidden.flatten(0, -2)
        drawn = torch.zeros(len(hidden), 0, dtype=torch.int64, device=hidden.device)
        log_probability = torch.zeros(len(hidden), device=hidden.device)
        for place in range(len(self.tables)):
            state = self._states(hidden, drawn, tables)[place]
            log_share = self._logits(state, place, tables).log_softmax(dim=-1)
            # drawn on the CPU, so that a seed means the same on every device
            chosen = torch.multinomial(log_share.exp().cpu(), 1, generator=generator).to(hidden.device)
            log_probability = log_probability + log_share.gather(1, chosen).squeeze(1)
            drawn = torch.cat([drawn, chosen], dim=1)
        return drawn.view(*shape, -1), log_probability.view(shape)

    def _states(self, hidden: Tensor, parts: Tensor, tables: list[Tensor]) -> list[Tensor]:
        """What scores each part, given those before it; ``parts`` may be the first ones alone."""
        if self.along is None:
            return [hidden]
        before = range(min(parts.shape[-1], len(tables) - 1))
        read = [F.embedding(parts[..., place], tables[place]) for place in before]
        return list(self.along(hidden, read).unbind(dim=-2))

    def _logits(self, state: Tensor, place: int, tables: list[Tensor]) -> Tensor:
        return F.linear(state, tables[place], self.tables[place].bias)  # type: ignore[arg-type]
