"""``ar``: a causal transformer that predicts each position of an image from those before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from vistok.downstream.base import DEPTH, DROPOUT, NUM_HEADS, WIDTH, Batch, Drawn
from vistok.downstream.discrete import ExactBackbone, starting_parts
from vistok.downstream.parts import Parts
from vistok.downstream.positions import Positions
from vistok.downstream.tokens import Tokens, positions
from vistok.downstream.vocabulary import Vocabulary
from vistok.layouts.transformer import INIT_STD, Transformer
from vistok.spec import TokenizerSpec
from vistok.tokenizer import Tokenizer


class Autoregressive(ExactBackbone):
    """Predicts each position of an image from those before it, in the tokenizer's order; within it, part after part.

    It enters through what a tokenizer gives: a position is read as the sum of its parts' embeddings, which start from the
    post-quantization vectors, and the same embeddings, transposed, score the next. Several streams follow one another,
    in the order of the spec. Its bits per image are exact.

    Source: Radford et al., Language Models are Unsupervised Multitask Learners (2019), section 2.3; several parts at a
    position: see ``Parts``. Deviation: rows and columns have learned positions that are added.

    Args:
        vocabularies: Of the indices of each stream.
        parts: Read and score them.
        grids: How the positions of each stream lie: (h, w), or (N,).
        reversed_streams: Whether each stream is generated from its last position to its first.
        width: Channels, a multiple of ``num_heads``.
        depth: Blocks.
        num_heads: Attention heads.
        dropout: Of the embeddings and of each branch, in [0, 1).

    Shapes:
        parts (B, N, P) int64 of each stream; N = h * w.
    """

    name = "ar"
    fits = "discrete tokenizers"

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        parts: Sequence[Parts],
        grids: Sequence[tuple[int, ...]],
        reversed_streams: Sequence[bool] = (),
        width: int = WIDTH,
        depth: int = DEPTH,
        num_heads: int = NUM_HEADS,
        dropout: float = DROPOUT,
    ) -> None:
        super().__init__(vocabularies, [math.prod(grid) for grid in grids])
        self.parts = nn.ModuleList(parts)
        self.reversed_streams = tuple(reversed_streams) or (False,) * len(grids)
        self.start = nn.Parameter(torch.randn(width) * INIT_STD)
        self.positions = nn.ModuleList([Positions(grid, width) for grid in grids])
        self.trunk = Transformer(width, depth, num_heads, dropout)
        self.dropout = nn.Dropout(dropout)

    @classmethod
    def takes(cls, spec: TokenizerSpec) -> bool:
        """Streams that all have codebooks."""
        return all(stream.codebook_size is not None for stream in spec.streams)

    @classmethod
    def of(cls, tokenizer: Tokenizer, train: Tokens) -> Autoregressive:
        """A model of a discrete tokenizer's tokens."""
        vocabularies, parts = starting_parts(tokenizer, train)
        backwards = [stream.order == "reversed" for stream in tokenizer.spec.streams]
        return cls(vocabularies, parts, [positions(stream) for stream in train.streams], backwards)

    def inputs(self, tokens: Tokens) -> tuple[Tensor, ...]:
        """The parts of each stream, first generated first."""
        return tuple(map(_turned, super().inputs(tokens), self.reversed_streams))

    @property
    def _parts(self) -> list[Parts]:
        return cast("list[Parts]", list(self.parts))

    def tables(self) -> list[list[Tensor]]:
        """The embeddings of all parts of each stream; make them once and hand them on."""
        return [parts.embeddings() for parts in self._parts]

    def hidden(self, streams: Sequence[Tensor], tables: list[list[Tensor]]) -> Tensor:
        """What scores each position, given those before it, of as many positions as are given and one more.

        Shapes:
            streams (B, N, P) each, the last one may be shorter and those after it missing -> (B, n + 1, width).
        """
        places = torch.cat(
            [_turned(p()[None], of)[0] for p, of in zip(self.positions, self.reversed_streams, strict=True)]
        )
        read = [parts.read(s, t) for parts, s, t in zip(self._parts, streams, tables, strict=False)]
        batch = len(streams[0])
        x = torch.cat([self.start.expand(batch, 1, -1), *read], dim=1)[:, : len(places)]
        # a position says which token is asked for, not which one is read
        return self.trunk(self.dropout(x + places[: x.shape[1]]), causal=True)  # type: ignore[no-any-return]

    def nats(self, batch: Batch) -> Tensor:
        """What each position costs: (B, N) over all streams."""
        tables = self.tables()
        # the last position is scored and never read
        given = [*batch[:-1], batch[-1][:, :-1]]
        hidden = torch.split(self.hidden(given, tables), list(self.counts), dim=1)
        costs = [
            parts.nats(h, s, t) for parts, h, s, t in zip(self._parts, hidden, batch, tables, strict=True)
        ]
        return torch.cat(costs, dim=1)

    def draw(self, count: int, generator: torch.Generator, on_share: Callable[[float], None]) -> Drawn:
        """Draws position after position from the whole distribution."""
        tables, streams = self.tables(), []
        done, total = 0, sum(self.counts)
        for parts, length, of in zip(self._parts, self.counts, tables, strict=True):
            streams.append(torch.zeros(count, 0, len(of), dtype=torch.int64, device=self.device))
            for _ in range(length):
                last = self.hidden(streams, tables)[:, -1]
                drawn, _ = parts.sample(last, of, generator)
                streams[-1] = torch.cat([streams[-1], drawn[:, None]], dim=1)
                done += 1
                on_share(done / total)
        in_order = map(_turned, streams, self.reversed_streams)
        joined = zip(self.vocabularies, in_order, strict=True)
        return Drawn(tuple(vocabulary.join(stream) for vocabulary, stream in joined))


def _turned(stream: Tensor, is_reversed: bool) -> Tensor:
    return stream.flip(1) if is_reversed else stream
