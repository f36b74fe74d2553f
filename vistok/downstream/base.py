"""The contract of a backbone: a small generative model of one tokenizer's tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from vistok.downstream.tokens import Tokens
from vistok.spec import TokenizerSpec
from vistok.tokenizer import Tokenizer

B = TypeVar("B", bound="Backbone")
Batch = Sequence[Tensor]
Unit = Literal["bits/image", "flow loss"]

WIDTH, DEPTH, NUM_HEADS, DROPOUT = 128, 3, 4, 0.1


class Drawn(NamedTuple):
    """What a model drew: the values of each stream, and captions where it draws those too."""

    streams: tuple[Tensor, ...]
    captions: tuple[str, ...] = ()


def spread(count: int, generator: torch.Generator) -> Tensor:
    """Numbers in [0, 1), one in each of ``count`` equal intervals, in random order: (count,)."""
    return (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count


def nothing(share: float) -> None:
    """Hears how far something is and does nothing."""


class Backbone(nn.Module):
    """Learns the distribution of an image's tokens and draws from it.

    ``fits`` says for which tokenizers it is; ``unit`` what ``costs`` counts; ``is_bound`` that costs are an upper bound of
    the model's own bits, not the bits; ``num_draws`` how often the result averages costs that are drawn. Batches are the
    tensors of ``inputs``, one row an image.
    """

    name: ClassVar[str]
    fits: ClassVar[str]
    unit: ClassVar[Unit] = "bits/image"
    is_bound: ClassVar[bool] = False
    num_draws: ClassVar[int] = 1
    needs_captions: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def takes(cls, spec: TokenizerSpec) -> bool:
        """Whether it can learn the tokens of a tokenizer."""

    @classmethod
    @abstractmethod
    def of(cls: type[B], tokenizer: Tokenizer, train: Tokens) -> B:
        """A model of a tokenizer's tokens, untrained; it starts from the tokenizer's vectors and the tokens' statistics."""

    @abstractmethod
    def inputs(self, tokens: Tokens) -> tuple[Tensor, ...]:
        """Tokens as this model reads them, a row for each image."""

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """What training lowers; a scalar."""

    @abstractmethod
    def costs(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """What each image costs, in ``unit``: (B,); where that is an average, one draw of it from the generator."""

    @abstractmethod
    def baselines(self, train: Tokens, held_out: Tokens) -> dict[str, float]:
        """Costs of held-out images without a model, in ``unit``, by name; the first is the one to fall below."""

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator, on_share: Callable[[float], None]) -> Drawn:
        """What ``sample`` gives, on the model's device; called in evaluation mode, without gradients."""

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0, on_share: Callable[[float], None] = nothing) -> Drawn:
        """Draws images, without dropout: for each stream (count, N, S) indices or (count, N, D) latents, on the CPU.

        A seed means the same on every device.
        """
        was_training = self.training
        self.eval()
        drawn = self.draw(count, torch.Generator().manual_seed(seed), on_share)
        self.train(was_training)
        return Drawn(tuple(stream.cpu() for stream in drawn.streams), drawn.captions)

    def details(self, batch: Batch) -> dict[str, float]:
        """More numbers about held-out images, by name."""
        return {}

    @property
    def num_scores(self) -> int:
        """Numbers that score one image, which decide how many images fit a batch."""
        return 0

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device
