"""Tokens of a batch of images, as an encoder gives them and a decoder takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from torch import Tensor

from vistok.backbones.sequence import valid
from vistok.errors import TokenizerError


@dataclass(frozen=True)
class StreamTokens:
    """One stream of a batch.

    Args:
        indices: (B, N, S) int64, position-major, local ids; None if continuous.
        latents: (B, N, D) float, normalised; None if discrete.
        grid: The token grid (h, w), the finest one of several scales; (N,) of a sequence, its bound where lengths vary.
    """

    indices: Tensor | None
    latents: Tensor | None
    grid: tuple[int, ...]

    @property
    def values(self) -> Tensor:
        """The indices, or the latents of a continuous stream."""
        chosen = self.indices if self.indices is not None else self.latents
        if chosen is None:
            raise TokenizerError("a stream needs indices or latents, it has neither")
        return chosen


@dataclass(frozen=True, eq=False)
class Encoded(Mapping[str, StreamTokens]):
    """Tokens of a batch of images: a mapping from stream name to tokens, with shortcuts to the first stream.

    Args:
        streams: Tokens by stream name, in the order of the spec.
        size: (H, W) of the images in pixels.
        lengths: (B,) int64 tokens per image of the first stream where they vary; zeros lie beyond. None where they do not.
    """

    streams: dict[str, StreamTokens]
    size: tuple[int, int]
    lengths: Tensor | None = None

    def __getitem__(self, name: str) -> StreamTokens:
        return self.streams[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.streams)

    def __len__(self) -> int:
        return len(self.streams)

    @property
    def main(self) -> StreamTokens:
        """The first stream."""
        return next(iter(self.streams.values()))

    @property
    def tokens(self) -> Tensor:
        """Of the first stream, whatever its kind: indices (B, N, S) or latents (B, N, D)."""
        return self.main.values

    @property
    def indices(self) -> Tensor | None:
        """Indices of the first stream, (B, N, S) int64; None if it is continuous."""
        return self.main.indices

    @property
    def latents(self) -> Tensor | None:
        """Latents of the first stream, (B, N, D); None if it is discrete."""
        return self.main.latents

    @property
    def grid(self) -> tuple[int, ...]:
        """Token grid of the first stream."""
        return self.main.grid

    @property
    def batch_size(self) -> int:
        """Number of images B."""
        return int(self.main.values.shape[0])

    def flat_indices(self) -> Tensor:
        """Indices of the first stream, image after image, without what lies beyond an image's length: (T, S).

        Raises:
            TokenizerError: the stream is continuous.
        """
        if self.main.indices is None:
            raise TokenizerError("a continuous stream has no indices; use latents")
        if self.lengths is None:
            return self.main.indices.flatten(0, 1)
        return self.main.indices[valid(self.lengths, self.main.indices.shape[1])]

    def indices_grid(self, stream: str | None = None) -> Tensor:
        """Indices of a stream as they lie in the image: (B, h, w), or (B, h, w, S) where S > 1."""
        tokens = self.main if stream is None else self[stream]
        if tokens.indices is None:
            raise TokenizerError("a continuous stream has no indices; use latents")
        batch, count, groups = tokens.indices.shape
        if count != prod(tokens.grid):
            raise TokenizerError(
                f"{count} indices an image do not lie on one grid {tokens.grid}: they are of several scales, or of varying length"
            )
        shaped = tokens.indices.reshape(batch, *tokens.grid, groups)
        return shaped.squeeze(-1) if groups == 1 else shaped

    def indices_by_group(self, stream: str | None = None) -> Tensor:
        """Indices of a stream, group-major: (B, S, N)."""
        tokens = self.main if stream is None else self[stream]
        if tokens.indices is None:
            raise TokenizerError("a continuous stream has no indices; use latents")
        return tokens.indices.transpose(1, 2)
