"""A few words beside each image: its caption, or its label, or what its pixels look like."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

PAD, UNKNOWN, END = 0, 1, 2
_SPECIAL = 3
MOST_WORDS = 8
MOST_KINDS = 500

_HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")
_WORD = re.compile(r"\w+")


class Words:
    """The words of captions as numbers, most frequent first; unknown ones share a number.

    Args:
        captions: Of the training set.
    """

    def __init__(self, captions: Sequence[str]) -> None:
        counts = Counter(word for caption in captions for word in _split(caption))
        kinds = sorted(counts, key=lambda word: (-counts[word], word))[:MOST_KINDS]
        self.words = ("", "?", "", *kinds)
        self._number = {word: number for number, word in enumerate(kinds, start=_SPECIAL)}
        self.length = 1 + max(len(_split(caption)) for caption in captions)

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, captions: Sequence[str]) -> Tensor:
        """Word numbers, an end after the last, zeros after that: (n, length)."""
        rows = torch.zeros(len(captions), self.length, dtype=torch.int64)
        for row, caption in zip(rows, captions, strict=True):
            numbers = [self._number.get(word, UNKNOWN) for word in _split(caption)][: self.length - 1]
            row[: len(numbers) + 1] = torch.tensor([*numbers, END])
        return rows

    def decode(self, row: Tensor) -> str:
        """The words before the end."""
        numbers = row.tolist()
        return " ".join(self.words[n] for n in numbers[: numbers.index(END) if END in numbers else None])


def described(pictures: Tensor) -> list[str]:
    """Three words for each picture: how bright, which colour, how much detail.

    Shapes:
        pictures (B, 3, H, W) in [-1, 1].
    """
    told = []
    for picture in (pictures.float().clamp(-1, 1) + 1) / 2:
        grey = picture.mean(dim=0)
        brightness = ("dark", "dim", "light", "bright")[min(3, int(float(grey.mean()) * 4))]
        red, green, blue = picture.mean(dim=(1, 2)).tolist()
        edges = float(grey.diff(dim=0).abs().mean() + grey.diff(dim=1).abs().mean())
        detail = "smooth" if edges < 0.03 else "textured" if edges < 0.08 else "busy"
        told.append(f"{brightness} {_hue(red, green, blue)} {detail}")
    return told


def _hue(red: float, green: float, blue: float) -> str:
    high, low = max(red, green, blue), min(red, green, blue)
    if high - low < 0.06:
        return "grey"
    if high == red:
        turn = (green - blue) / (high - low) % 6
    else:
        turn = 2 + (blue - red) / (high - low) if high == green else 4 + (red - green) / (high - low)
    return _HUES[round(turn) % 6]


def _split(caption: str) -> list[str]:
    return _WORD.findall(caption.lower())[:MOST_WORDS]
