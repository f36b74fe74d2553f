"""What a run found."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vistok.downstream.base import Unit
from vistok.downstream.tokens import Tokens, positions
from vistok.downstream.training import Point
from vistok.tokenizer import Encoded, StreamTokens

# what has the loss that a baseline's name stands for
MEANING = {
    "unigram": "the unigram",
    "independent": "independent normal values",
    "mean": "predicting the mean",
}


@dataclass(frozen=True, eq=False)
class Result:
    """Losses and samples of one backbone on one tokenizer's tokens.

    Args:
        tokenizer: Its name in the spec.
        weights_hash: Of the tokenizer.
        backbone: Name of the backbone.
        unit: Of ``loss``, ``baselines`` and ``points``.
        is_bound: Whether ``loss`` is an upper bound of the model's bits.
        loss: Mean over all held-out images, without dropout.
        train_loss: The same over 192 training images, or as many as there are.
        baselines: Losses of held-out images without a model, by name; the first is the one to fall below.
        details: More numbers, by name.
        points: Looks at the model while it was trained.
        num_train: Training images.
        num_held_out: Held-out images.
        parameters: Weights of the backbone.
        seconds: Of training.
        sample_tokens: What it drew.
        captions: Words that it drew with them.
        samples: Their pictures (count, 3, H, W) in [-1, 1]; None where the tokenizer has no pixel decoder.
        real: Pictures of as many held-out images, decoded from their tokens: the best that samples could be.
        held_out: The held-out tokens.
    """

    tokenizer: str
    weights_hash: str
    backbone: str
    unit: Unit
    is_bound: bool
    loss: float
    train_loss: float
    baselines: dict[str, float]
    details: dict[str, float]
    points: list[Point]
    num_train: int
    num_held_out: int
    parameters: int
    seconds: float
    sample_tokens: Encoded = field(repr=False)
    captions: tuple[str, ...]
    samples: Tensor | None = field(repr=False)
    real: Tensor | None = field(repr=False)
    held_out: Tokens = field(repr=False)

    @property
    def baseline(self) -> float:
        """The loss to fall below."""
        return next(iter(self.baselines.values()))

    @property
    def is_below(self) -> bool:
        """Whether it fell below."""
        return self.loss < self.baseline

    @property
    def num_tokens(self) -> int:
        """Indices of an image, of all streams; positions where they are latents."""
        return self.held_out.num_tokens

    @property
    def bits_per_image(self) -> float | None:
        """None where the unit is another: latents have no bits that two tokenizers share."""
        return self.loss if self.unit == "bits/image" else None

    @property
    def bits_per_token(self) -> float | None:
        """Bits per image over tokens per image."""
        return None if self.bits_per_image is None else self.bits_per_image / self.num_tokens

    @property
    def unigram_bits_per_token(self) -> float | None:
        """The baseline over tokens per image."""
        return None if self.bits_per_image is None else self.baseline / self.num_tokens

    @property
    def bits_per_pixel(self) -> float | None:
        """Bits per image over its pixels."""
        height, width = self.held_out.encoded.size
        return None if self.bits_per_image is None else self.bits_per_image / (height * width)

    def to_json_data(self) -> dict[str, Any]:
        """All numbers, without tokens and pictures."""
        names = (
            "tokenizer",
            "weights_hash",
            "backbone",
            "unit",
            "is_bound",
            "loss",
            "train_loss",
            "baseline",
            "baselines",
        )
        more = ("num_train", "num_held_out", "num_tokens", "parameters", "seconds")
        bits = ("bits_per_image", "bits_per_token", "unigram_bits_per_token", "bits_per_pixel")
        return {
            **{name: getattr(self, name) for name in (*names, "is_below", *bits, "details", *more)},
            "image_size": list(self.held_out.encoded.size),
            "grids": {name: list(s.grid) for name, s in self.held_out.encoded.items()},
            "captions": list(self.captions),
            "points": [vars(point) for point in self.points],
        }

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_json_data(), indent=2)

    def rows(self) -> list[tuple[str, str]]:
        """Names and values for people."""
        bound = "at most " if self.is_bound else ""
        (name, baseline), *others = self.baselines.items()
        below = "below" if self.is_below else "NOT below"
        rows = [
            ("tokenizer", self.tokenizer),
            ("backbone", f"{self.backbone}, {self.parameters / 1e6:.1f} M weights"),
        ]
        if self.bits_per_image is not None:
            rows += [
                (
                    "held-out loss",
                    f"{bound}{self.loss:.1f} bits/image, {below} the {baseline:.1f} of {MEANING[name]}",
                ),
                (
                    "per token",
                    f"{bound}{self.bits_per_token:.2f} bits, {name} {self.unigram_bits_per_token:.2f}",
                ),
                ("per pixel", f"{bound}{self.bits_per_pixel:.3f} bits"),
            ]
        else:
            rows += [
                (
                    "held-out flow loss",
                    f"{self.loss:.3f}, {below} the {baseline:.3f} of {MEANING[name]}",
                ),
                *((f"flow loss of {MEANING[other]}", f"{value:.3f}") for other, value in others),
                ("bits per image", "not defined for continuous latents"),
            ]
        rows += [(detail.replace("_", " "), f"{value:.2f}") for detail, value in self.details.items()]
        height, width = self.held_out.encoded.size
        grids = " and ".join(map(_grid, self.held_out.streams))
        rows += [
            (
                "images",
                f"{self.num_train} to train on, {self.num_held_out} held out, {width} x {height} pixels",
            ),
            ("tokens", f"{self.num_tokens} an image, {grids}"),
            ("training", f"{self.points[-1].step} steps in {self.seconds:.0f} s"),
        ]
        if self.samples is None:
            rows += [("pictures", "none: this tokenizer gives features, not pictures")]
        return rows


def _grid(stream: StreamTokens) -> str:
    sides = " x ".join(map(str, stream.grid))
    return f"{'scales up to' if positions(stream) != stream.grid else 'grid'} {sides}"
