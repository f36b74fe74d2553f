"""What the models of discrete tokens share: parts in, bits out."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from vistok.downstream.base import NUM_HEADS, WIDTH, Backbone, Batch
from vistok.downstream.baseline import unigram_bits_per_image
from vistok.downstream.parts import Parts
from vistok.downstream.tokens import Tokens
from vistok.downstream.vocabulary import Vocabulary
from vistok.spec import TokenizerSpec
from vistok.tokenizer import Tokenizer


class DiscreteBackbone(Backbone):
    """A model of the parts (B, N, P) of discrete tokens; see ``Vocabulary`` for what parts are.

    Args:
        vocabularies: Of the indices of each stream.
        num_positions: N of each stream.
    """

    fits = "discrete tokenizers of one stream"

    def __init__(self, vocabularies: Sequence[Vocabulary], num_positions: Sequence[int]) -> None:
        super().__init__()
        self.vocabularies, self.counts = tuple(vocabularies), tuple(num_positions)

    @classmethod
    def takes(cls, spec: TokenizerSpec) -> bool:
        """One stream with a codebook."""
        return len(spec.streams) == 1 and spec.main.codebook_size is not None

    def inputs(self, tokens: Tokens) -> tuple[Tensor, ...]:
        """The parts of each stream."""
        streams = zip(self.vocabularies, tokens.streams, strict=True)
        return tuple(vocabulary.split(stream.values) for vocabulary, stream in streams)

    def baselines(self, train: Tokens, held_out: Tokens) -> dict[str, float]:
        """``unigram``: the training tokens' frequencies, add-one smoothed, on the held-out tokens."""
        streams = zip(train.streams, held_out.streams, self.vocabularies, strict=True)
        return {"unigram": sum(unigram_bits_per_image(a.values, b.values, of) for a, b, of in streams)}

    @property
    def num_scores(self) -> int:
        """Positions times values of the parts."""
        streams = zip(self.counts, self.vocabularies, strict=True)
        return sum(count * sum(vocabulary.sizes) for count, vocabulary in streams)


class ExactBackbone(DiscreteBackbone):
    """One that scores each position given what it generates before it, so that its bits are exact."""

    @abstractmethod
    def nats(self, batch: Batch) -> Tensor:
        """What each position costs: (B, N) over all streams."""

    def loss(self, batch: Batch) -> Tensor:
        """Mean nats of a position."""
        return self.nats(batch).mean()

    def costs(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Bits of each image."""
        return self.nats(batch).sum(dim=1) / math.log(2)


def starting_parts(tokenizer: Tokenizer, train: Tokens) -> tuple[list[Vocabulary], list[Parts]]:
    """Vocabulary and parts of each stream, which start from the tokenizer's vectors and the training tokens."""
    vocabularies, parts = [], []
    for spec, stream in zip(tokenizer.spec.streams, train.streams, strict=True):
        vocabulary = Vocabulary.of(spec)
        vectors = vocabulary.vectors(tokenizer, spec.name)
        vocabularies.append(vocabulary)
        parts.append(Parts.of(vectors, vocabulary, vocabulary.split(stream.values), WIDTH, NUM_HEADS))
    return vocabularies, parts
