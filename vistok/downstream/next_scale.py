"""``next-scale``: predicts all positions of a scale at once from the scales before it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vistok.downstream.base import DEPTH, DROPOUT, NUM_HEADS, WIDTH, Batch, Drawn
from vistok.downstream.discrete import ExactBackbone, starting_parts
from vistok.downstream.parts import Parts
from vistok.downstream.positions import Positions
from vistok.downstream.tokens import Tokens
from vistok.downstream.vocabulary import Vocabulary
from vistok.layouts.transformer import INIT_STD, Transformer
from vistok.quantizers import MultiScale
from vistok.spec import TokenizerSpec
from vistok.tokenizer import Tokenizer

Grids = tuple[tuple[int, int], ...]
_ROWS = 256


class NextScale(ExactBackbone):
    """Predicts every position of a scale from the sum of the scales before it, shrunk to that scale.

    A position sees its own scale and coarser ones. The positions of a scale are drawn independently of each other,
    given those before; its bits per image are exact for such a model.

    Source: Tian et al., Visual Autoregressive Modeling (2024), arXiv:2404.02905, section 3.2. Deviation: no class token;
    the scores are tied to the codes' vectors. Several parts at a position: see ``Parts``.

    Args:
        vocabulary: Of the tokenizer's indices.
        parts: Score them.
        quantizer: Of the tokenizer; its weights stay as they are and are not part of the model.
        grids: (h, w) of each scale, coarsest first.
        scale: Of the sums that are read: their deviation in the training set.
        width: Channels, a multiple of four heads.
        depth: Blocks.
        dropout: Of the embeddings and of each branch, in [0, 1).

    Shapes:
        parts (B, N, P) int64, sums (B, N - n_1, D), n_1 positions of the first scale.
    """

    name = "next-scale"
    fits = "multi-scale tokenizers of one stream"

    def __init__(
        self,
        vocabulary: Vocabulary,
        parts: Parts,
        quantizer: MultiScale,
        grids: Grids,
        scale: float = 1.0,
        width: int = WIDTH,
        depth: int = DEPTH,
        dropout: float = DROPOUT,
    ) -> None:
        scales = [height * w for height, w in grids]
        super().__init__((vocabulary,), (sum(scales),))
        self.parts = parts
        # kept apart from the modules: it is not trained and not counted
        self._quantizer, self.grids, self.scales, self.scale = (quantizer,), grids, scales, scale
        self.read = nn.Linear(quantizer.dim, width)
        self.start = nn.Parameter(torch.randn(width) * INIT_STD)
        self.levels = nn.Parameter(torch.randn(len(grids), width) * INIT_STD)
        self.positions = nn.ModuleList([Positions(grid, width) for grid in grids])
        self.trunk = Transformer(width, depth, NUM_HEADS, dropout)
        self.dropout = nn.Dropout(dropout)

    @classmethod
    def takes(cls, spec: TokenizerSpec) -> bool:
        """Grids of several scales."""
        return len(spec.streams) == 1 and spec.main.topology == "multiscale"

    @classmethod
    def of(cls, tokenizer: Tokenizer, train: Tokens) -> NextScale:
        """A model of a multi-scale tokenizer's tokens."""
        quantizer = tokenizer.quantizer
        assert isinstance(quantizer, MultiScale)
        (vocabulary,), (parts,) = starting_parts(tokenizer, train)
        grid = train.encoded.grid
        grids = quantizer.schedule((grid[0], grid[1]))
        model = cls(vocabulary, parts, quantizer, grids)
        model.scale = float(model.sums(train.values[:_ROWS]).std().clamp_min(1e-6))
        return model

    def inputs(self, tokens: Tokens) -> tuple[Tensor, ...]:
        """The parts, and what is read to predict them."""
        rows = [self.sums(piece) for piece in torch.split(tokens.values, _ROWS)]
        return *super().inputs(tokens), torch.cat(rows) / self.scale

    @torch.no_grad()
    def sums(self, indices: Tensor) -> Tensor:
        """What predicts each scale after the first; indices may be those of the first scales alone."""
        quantizer = self._quantizer[0]
        device = next((t.device for t in quantizer.state_dict().values()), indices.device)
        given = indices.squeeze(-1) if quantizer.num_groups == 1 else indices
        return quantizer.next_inputs(given.to(device), self.grids[-1]).to(indices.device)

    def hidden(self, sums: Tensor) -> Tensor:
        """What scores each position of the first scales, given their inputs: (B, n, D) -> (B, n_1 + n, width)."""
        first = self.start.expand(len(sums), self.scales[0], -1)
        x = torch.cat([first, self.read(sums)], dim=1)
        places = [p() + level for p, level in zip(self.positions, self.levels, strict=True)]
        level = torch.arange(len(self.scales), device=x.device).repeat_interleave(
            torch.tensor(self.scales, device=x.device)
        )[: x.shape[1]]
        mask = level[:, None] >= level[None, :]
        return self.trunk(self.dropout(x + torch.cat(places)[: x.shape[1]]), mask=mask)  # type: ignore[no-any-return]

    def nats(self, batch: Batch) -> Tensor:
        """What each position costs: -> (B, N)."""
        parts, sums = batch
        return self.parts.nats(self.hidden(sums), parts, self.parts.embeddings())

    def draw(self, count: int, generator: torch.Generator, on_share: Callable[[float], None]) -> Drawn:
        """Draws scale after scale."""
        tables = self.parts.embeddings()
        drawn = torch.zeros(count, 0, len(tables), dtype=torch.int64, device=self.device)
        sums = torch.zeros(count, 0, self.read.in_features, device=self.device)
        for number, size in enumerate(self.scales):
            hidden = self.hidden(sums)[:, -size:]
            drawn = torch.cat([drawn, self.parts.sample(hidden, tables, generator)[0]], dim=1)
            if number + 1 < len(self.scales):
                sums = self.sums(self.vocabularies[0].join(drawn)) / self.scale
            on_share((number + 1) / len(self.scales))
        return Drawn((self.vocabularies[0].join(drawn),))
