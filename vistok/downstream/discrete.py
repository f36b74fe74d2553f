"""What the models of discrete tokens share: parts in, bits out."""

from __future__ import annotations

import torch
from torch import Tensor

from vistok.downstream.base import Backbone
from vistok.downstream.baseline import unigram_bits_per_image
from vistok.downstream.parts import Parts
from vistok.downstream.tokens import Tokens
from vistok.downstream.vocabulary import Vocabulary
from vistok.spec import TokenizerSpec


class DiscreteBackbone(Backbone):
    """A model of the parts (B, N, P) of discrete tokens; see ``Vocabulary`` for what parts are.

    Args:
        vocabulary: Of the tokenizer's indices.
        parts: Reads and scores them.
        num_positions: N.
    """

    fits = "discrete tokenizers"

    def __init__(self, vocabulary: Vocabulary, parts: Parts, num_positions: int) -> None:
        super().__init__()
        self.vocabulary, self.parts, self.num_positions = vocabulary, parts, num_positions

    @classmethod
    def takes(cls, spec: TokenizerSpec) -> bool:
        """Any codebook."""
        return spec.main.codebook_size is not None

    def inputs(self, tokens: Tokens) -> tuple[Tensor, ...]:
        """The parts."""
        return (self.vocabulary.split(tokens.values),)

    def baselines(self, train: Tokens, held_out: Tokens) -> dict[str, float]:
        """``unigram``: the training tokens' frequencies, add-one smoothed, on the held-out tokens."""
        return {"unigram": unigram_bits_per_image(train.values, held_out.values, self.vocabulary)}

    @property
    def num_scores(self) -> int:
        """Positions times values of the parts."""
        return self.num_positions * sum(self.vocabulary.sizes)

    def _as_tokens(self, parts: Tensor) -> Tensor:
        return self.vocabulary.join(parts).to("cpu", torch.int64)
