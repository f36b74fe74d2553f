"""One stream's way through a tokenizer: encoder, projection, quantizer, projection, and its feature head."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vistok.backbones.base import Decoder, Encoder, EncoderOutput, FeatureHead
from vistok.backbones.sequence import valid
from vistok.errors import TokenizerError
from vistok.quantizers import Continuous, Gaussian, Quantizer
from vistok.recorded import Recorded
from vistok.spec import StreamSpec
from vistok.tokenizer import views
from vistok.tokenizer.code_noise import CodeNoise
from vistok.tokenizer.encoded import StreamTokens
from vistok.tokenizer.merge import Merge
from vistok.tokenizer.normaliser import LatentNormaliser
from vistok.tokenizer.token_checks import check_groups, checked_latents


@dataclass(frozen=True)
class StreamOutput:
    """What a stream makes of images in a training step.

    Args:
        quantized: (B, h, w, D) or (B, N, D).
        vectors: The same after the projection.
        indices: (B, N, S) int64, or (1, T, S) where lengths vary: the T tokens that there are; None if continuous.
        losses: Of encoder and quantizer, unweighted, by name.
        lengths: (B,) where they vary.
    """

    quantized: Tensor
    vectors: Tensor
    indices: Tensor | None
    losses: dict[str, Tensor]
    lengths: Tensor | None


class StreamParts(Recorded, nn.Module):
    """What a tokenizer and each of its further branches are made of."""

    encoder: Encoder
    quantizer: Quantizer
    project_in: nn.Module
    project_out: nn.Module
    feature_head: FeatureHead | None
    normaliser: LatentNormaliser | None
    decoder: Decoder | None
    merge: Merge | None
    noise: CodeNoise | None

    def set_parts(
        self,
        encoder: Encoder,
        quantizer: Quantizer,
        decoder: Decoder | None,
        project_in: nn.Module | None,
        project_out: nn.Module | None,
        feature_head: FeatureHead | None,
    ) -> None:
        """Takes the parts; projections that are None become identities."""
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder
        self.project_in = project_in if project_in is not None else nn.Identity()
        self.project_out = project_out if project_out is not None else nn.Identity()
        self.feature_head, self.merge, self.noise = feature_head, None, None

    def set_normaliser(self) -> None:
        """Gives a continuous stream its normaliser; after the parts were checked."""
        continuous = isinstance(self.quantizer, Continuous)
        self.normaliser = LatentNormaliser(self.quantizer.dim) if continuous else None

    # ---------------------------------------------------------------- what it is

    @property
    def dim_out(self) -> int:
        """Channels after the projection."""
        return int(getattr(self.project_out, "dim_out", self.quantizer.dim))

    def stream(self) -> StreamSpec:
        """Its tokens and how they lie; name and role are the tokenizer's to say."""
        stream, encoder = self.quantizer.stream(), self.encoder
        if encoder.topology == "2d":
            return replace(
                stream, factor=encoder.factor, pools=encoder.pools if len(encoder.pools) > 1 else ()
            )
        return replace(
            stream, topology=encoder.topology, order=encoder.order, max_tokens=encoder.num_tokens, factor=0
        )

    @property
    def weight_type(self) -> torch.dtype:
        """Type of the encoder's weights, in which it takes images."""
        return next((p.dtype for p in self.encoder.parameters() if p.is_floating_point()), torch.float32)

    # ---------------------------------------------------------------- images to tokens

    def latents(self, x: Tensor, pool: int | None = None) -> EncoderOutput:
        """Images to what the quantizer takes."""
        found = self.encoder.latents(x.to(self.weight_type), pool)
        return replace(found, latent=self.project_in(found.latent))

    def rows(self, x: Tensor) -> Tensor:
        """The latents that there are: (B, ..., D), or (1, T, D) where lengths vary; for k-means and revival."""
        found = self.latents(x)
        return found.latent if found.lengths is None else _rows(found.latent, found.lengths)

    def tokens(
        self, x: Tensor, *, sample: bool = False, pool: int | None = None
    ) -> tuple[StreamTokens, Tensor | None]:
        """Images to tokens and, where they vary, their lengths (B,)."""
        found = self.latents(x, pool)
        grid = self._grid(found)
        if self.normaliser is not None:
            quantized = (
                self.quantizer.sample(found.latent) if sample else self.quantizer(found.latent).quantized
            )
            return StreamTokens(None, self.normaliser(quantized).flatten(1, -2), grid), None
        if found.lengths is None:
            indices = views.with_groups(self.quantizer, self.quantizer(found.latent).indices)
        else:
            rows = views.with_groups(
                self.quantizer, self.quantizer(_rows(found.latent, found.lengths)).indices
            )
            indices = _padded(rows, found.lengths, found.latent.shape[1])
        return StreamTokens(indices, None, grid), found.lengths

    def distribution(self, x: Tensor) -> StreamTokens:
        """Images to means and standard deviations, (B, N, 2 D), of a stream whose latents have a distribution."""
        assert self.normaliser is not None and isinstance(self.quantizer, Gaussian)
        found = self.latents(x)
        mean, deviation = self.quantizer.moments(found.latent)
        moments = torch.cat([self.normaliser(mean), self.normaliser.rescale(deviation)], -1)
        return StreamTokens(None, moments.flatten(1, -2), self._grid(found))

    def quantize(self, x: Tensor) -> StreamOutput:
        """The differentiable way from images to vectors."""
        found = self.latents(x)
        lengths = found.lengths
        # what pads a sequence is no latent: it must not move codes or count in a loss
        output = self.quantizer(found.latent if lengths is None else _rows(found.latent, lengths))
        indices = None if output.indices is None else views.with_groups(self.quantizer, output.indices)
        quantized: Tensor = output.quantized
        if lengths is not None:
            quantized = _padded(quantized, lengths, found.latent.shape[1])
        if self.noise is not None and self.training:
            quantized = self.noise(quantized, self.quantizer)
        losses = {**found.losses, **output.losses}
        return StreamOutput(quantized, self.projected(quantized), indices, losses, lengths)

    # ---------------------------------------------------------------- tokens to vectors

    def projected(self, quantized: Tensor) -> Tensor:
        """Quantized vectors as decoder and feature head take them, in the type of their weights."""
        modules = (self.project_out, self.decoder, self.feature_head)
        types = (p.dtype for m in modules if m is not None for p in m.parameters())
        vectors: Tensor = self.project_out(quantized.to(next(types, quantized.dtype)))
        return vectors

    def features(self, output: StreamOutput) -> Tensor:
        """What the feature head, which there must be, predicts from a training step's vectors: (B, h', w', Ds)."""
        assert self.feature_head is not None
        varying = () if output.lengths is None else (output.lengths,)
        features: Tensor = self.feature_head(output.vectors, *varying)
        return features

    def quantized(self, tokens: StreamTokens, name: str, device: torch.device) -> Tensor:
        """Tokens as they lie: quantized vectors (B, h, w, D), or (B, N, D) of a sequence.

        Raises:
            TokenizerError: indices where latents are wanted, or the other way round.
            ValueError: tokens that do not fit the grid or the codebook.
        """
        ragged, longest = self.encoder.topology == "ragged", self.encoder.num_tokens
        if longest and (
            tokens.values.shape[1] > longest or not (ragged or tokens.values.shape[1] == longest)
        ):
            raise ValueError(f"{tokens.values.shape[1]} tokens an image, this tokenizer has {longest}")
        if self.normaliser is not None:
            if tokens.latents is None:
                raise TokenizerError(f"{name} is continuous: decode takes latents, not indices")
            self.normaliser.check_grid(tokens.grid)
            raw = self.normaliser.inverse(checked_latents(tokens.latents.to(device), self.quantizer.dim))
            return views.fill(raw, tokens.grid)
        if tokens.indices is None:
            raise TokenizerError(f"{name} is discrete: decode takes indices, not latents")
        check_groups(self.quantizer, tokens.indices)
        indices = tokens.indices.to(device)
        return (
            views.by_position(self.quantizer, indices)
            if ragged
            else views.on_grid(self.quantizer, indices, tokens.grid)
        )

    def _grid(self, found: EncoderOutput) -> tuple[int, ...]:
        # of varying lengths the bound, which all images of one size share
        return (self.encoder.num_tokens,) if found.lengths is not None else tuple(found.latent.shape[1:-1])


def _rows(latent: Tensor, lengths: Tensor) -> Tensor:
    """The latents that there are, image after image: (B, N, D) -> (1, T, D)."""
    return latent[valid(lengths, latent.shape[1])][None]


def _padded(rows: Tensor, lengths: Tensor, longest: int) -> Tensor:
    """Rows in their places, zeros beyond: (1, T, C) -> (B, N, C)."""
    padded = rows.new_zeros(len(lengths), longest, rows.shape[-1])
    return padded.masked_scatter(valid(lengths, longest)[..., None], rows)
