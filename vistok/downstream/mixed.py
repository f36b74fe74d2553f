"""``mixed``: one transformer that predicts words one by one and an image's continuous latents by rectified flow."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vistok.backbones.rectified_flow import Velocity
from vistok.downstream.base import DEPTH, DROPOUT, NUM_HEADS, WIDTH, Batch, Drawn
from vistok.downstream.baseline import frequencies
from vistok.downstream.captions import END, PAD, Words
from vistok.downstream.continuous import ContinuousBackbone
from vistok.downstream.flow import LatentScale, independent_velocity, random_flow_errors
from vistok.downstream.parts import PartTable
from vistok.downstream.positions import Positions
from vistok.downstream.tokens import Tokens, positions
from vistok.layouts.transformer import INIT_STD
from vistok.tokenizer import Tokenizer

# the flow loss beside the nats of a word: Transfusion's lambda
FLOW_WEIGHT = 5.0


class Mixed(ContinuousBackbone):
    """A few words, then the latents of their image: words see the words before them, latents see words and each other.

    Its cost is the flow loss given the words; what the words cost stands among the details, in bits per image beside
    those of their unigram distribution.

    Source: Zhou et al., Transfusion (2024), arXiv:2408.11039, sections 3.1 to 3.3. Deviation: one order, words before
    the image; one latent a position, without patches; learned positions.

    Args:
        words: What the captions consist of.
        shares: (number of words,) smoothed shares in the training captions.
        scale: Of the training latents.
        dim: D.
        grid: How the positions lie: (h, w), or (N,).
        width: Channels, a multiple of four heads.
        depth: Blocks.
        dropout: Of the embeddings and of each branch, in [0, 1).

    Shapes:
        words (B, W) int64, latents (B, N, D), scaled.
    """

    name = "mixed"
    needs_captions = True

    def __init__(
        self,
        words: Words,
        shares: Tensor,
        scale: LatentScale,
        dim: int,
        grid: tuple[int, ...],
        width: int = WIDTH,
        depth: int = DEPTH,
        dropout: float = DROPOUT,
    ) -> None:
        table = PartTable(None, shares, width)
        start = nn.Parameter(torch.randn(width) * INIT_STD)
        places = Positions((words.length + 1,), width)
        super().__init__(scale, dim, grid, width, depth, NUM_HEADS, dropout)
        self.words, self._unigram = words, shares
        self.table, self.start, self.word_positions = table, start, places
        self.dropout = nn.Dropout(dropout)

    @classmethod
    def of(cls, tokenizer: Tokenizer, train: Tokens) -> Mixed:
        """A model of a continuous tokenizer's latents and of the captions beside them."""
        words = Words(train.captions)
        numbers = words.encode(train.captions)
        shares = frequencies(numbers[numbers != PAD], len(words))
        return cls(
            words, shares, LatentScale(train.values), train.values.shape[-1], positions(train.streams[0])
        )

    def inputs(self, tokens: Tokens) -> tuple[Tensor, ...]:
        """Numbers of words, scaled latents."""
        return self.words.encode(tokens.captions), self.scale(tokens.values)

    def forward(self, words: Tensor, noisy: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of every word given those before it, and the velocity given all of them.

        Shapes:
            words (B, W), noisy (B, N, D), time (B,) -> (B, W, number of words), (B, N, D).
        """
        table, count = self.table(), words.shape[1] + 1
        start = self.start.expand(len(words), 1, -1)
        text = torch.cat([start, F.embedding(words, table)], dim=1) + self.word_positions()[:count]
        image = self.read(noisy) + self.positions() + self.time(time)[:, None]
        length = count + noisy.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool, device=words.device).tril()
        mask[count:, count:] = True
        x = self.trunk(self.dropout(torch.cat([text, image], dim=1)), mask=mask)
        velocity = independent_velocity(noisy, time) + self.velocity(x[:, count:])
        return F.linear(x[:, : count - 1], table, self.table.bias), velocity

    def loss(self, batch: Batch) -> Tensor:
        """Nats of a word plus five times the error of the velocity."""
        words, latents = batch
        scores: list[Tensor] = []

        def velocity(noisy: Tensor, time: Tensor) -> Tensor:
            logits, predicted = self(words, noisy, time)
            scores.append(logits)
            return predicted  # type: ignore[no-any-return]

        errors = random_flow_errors(velocity, latents)
        return FLOW_WEIGHT * errors.mean() + F.cross_entropy(
            scores[0].flatten(0, 1), words.flatten(), ignore_index=PAD
        )

    def velocity_given(self, given: Batch) -> Velocity:
        """That of latents, given their words."""
        return lambda noisy, time: self(given[0], noisy, time)[1]

    @torch.no_grad()
    def details(self, batch: Batch) -> dict[str, float]:
        """Bits of an image's words, by the model and by their unigram distribution in the training set."""
        total, log2 = 0.0, self._unigram.log2()
        for words, latents in zip(*(torch.split(t, 256) for t in batch), strict=True):
            words = words.to(self.device)
            logits, _ = self(words, latents.to(self.device), torch.zeros(len(words), device=self.device))
            nats = F.cross_entropy(logits.flatten(0, 1), words.flatten(), ignore_index=PAD, reduction="sum")
            total += float(nats) / math.log(2)
        words = batch[0]
        unigram = -float(log2[words[words != PAD]].sum())
        return {
            "words_bits_per_image": total / len(words),
            "words_unigram_bits_per_image": unigram / len(words),
        }

    def draw(self, count: int, generator: torch.Generator, on_share: Callable[[float], None]) -> Drawn:
        """Draws words, then latents given them in 50 steps."""
        noise = self.noise(count, generator)
        words = torch.full((count, self.words.length), PAD, device=self.device)
        at = torch.zeros(count, device=self.device)
        ended = torch.zeros(count, dtype=torch.bool, device=self.device)
        for place in range(self.words.length):
            shares = self(words, noise, at)[0][:, place].softmax(dim=-1).cpu()
            shares[:, PAD] = 0
            drawn = torch.multinomial(shares, 1, generator=generator).squeeze(1).to(self.device)
            words[:, place] = torch.where(ended, PAD, drawn)
            ended |= drawn == END
        latents = self.latents((words,), noise, on_share)
        captions = tuple(self.words.decode(row) for row in words.cpu())
        return Drawn((latents,), captions)
