"""The tokenizer: encoder -> quantizer -> decoder as one module, and the interface that downstream models see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vistok.backbones.base import Decoder, Encoder, FeatureHead
from vistok.errors import ImageError, TokenizerError
from vistok.quantizers import Continuous, Gaussian, Quantizer
from vistok.recorded import Recorded
from vistok.spec import DecodingSpec, FeatureSpec, ImagePolicy, LatentSpec, NumericsSpec, TokenizerSpec
from vistok.tokenizer import views
from vistok.tokenizer.checks import check_parts, checked_latents, given_tokens
from vistok.tokenizer.encoded import Encoded, StreamTokens
from vistok.tokenizer.normaliser import LatentNormaliser
from vistok.tokenizer.preprocess import Images, check_pixels, preprocess
from vistok.tokenizer.weights_hash import WeightsHash


@dataclass(frozen=True)
class Reconstruction:
    """What a training step needs: the differentiable way through the whole tokenizer.

    Args:
        image: (B, 3, H, W), not clamped; None without a pixel decoder.
        features: (B, h', w', Ds) in the teacher's space; None without a feature head.
        losses: The quantizer's unweighted scalars by name.
        indices: (B, N, S) int64; None if continuous.
    """

    image: Tensor | None
    features: Tensor | None
    losses: dict[str, Tensor]
    indices: Tensor | None


class Tokenizer(Recorded, nn.Module):
    """Images to tokens and back.

    Args:
        encoder: Images to latents.
        quantizer: Latents to tokens; a continuous one too.
        decoder: Quantized vectors to images; None where only features or tokens are wanted.
        project_in: From the encoder's channels to the quantizer's; None where they are equal.
        project_out: From the quantizer's channels to the decoder's and feature head's; None where they are equal.
        feature_head: Quantized vectors to a teacher's features: the semantic branch.
        image: How images become tensors.
        name: What the spec calls it.

    Raises:
        ValueError: parts whose channels or factors do not meet; the message names both.
    """

    def __init__(
        self,
        encoder: Encoder,
        quantizer: Quantizer,
        decoder: Decoder | None = None,
        project_in: nn.Module | None = None,
        project_out: nn.Module | None = None,
        feature_head: FeatureHead | None = None,
        image: ImagePolicy | None = None,
        name: str = "tokenizer",
    ) -> None:
        super().__init__()
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder
        self.project_in = project_in if project_in is not None else nn.Identity()
        self.project_out = project_out if project_out is not None else nn.Identity()
        self.feature_head = feature_head
        self.image_policy = image if image is not None else ImagePolicy()
        self.name = name
        self._hash = WeightsHash()
        self.provenance: dict[str, Any] = {}
        self.metrics: tuple[dict[str, Any], ...] = ()
        self.licence = "unknown"
        check_parts(self)
        self.normaliser = LatentNormaliser(quantizer.dim) if isinstance(quantizer, Continuous) else None

    # ---------------------------------------------------------------- what it is

    @property
    def spec(self) -> TokenizerSpec:
        """All that a consumer must know, with the hash of the weights as they are now."""
        continuous = self.normaliser is not None
        stream = replace(
            self.quantizer.stream(),
            role="semantic"
            if self.decoder is None
            else "fused"
            if self.feature_head is not None
            else "pixel",
            factor=self.encoder.factor,
        )
        latents = None
        if self.normaliser is not None:
            shift, scale = (
                tuple(values.flatten().tolist()) for values in (self.normaliser.shift, self.normaliser.scale)
            )
            latents = LatentSpec(
                channels=self.quantizer.dim, shift=shift, scale=scale, grid=self.normaliser.grid
            )
        return TokenizerSpec(
            name=self.name,
            kind="continuous" if continuous else "discrete",
            streams=(stream,),
            image=self.image_policy,
            multiple_of=self.encoder.factor,
            features=FeatureSpec(
                quantized=self.quantizer.dim,
                depthwise=self.quantizer.dim,
                semantic=0 if self.feature_head is None else self.feature_head.dim_out,
            ),
            latents=latents,
            decoding=DecodingSpec(kind="features" if self.decoder is None else "pixels"),
            licence=self.licence,
            weights_hash=self._hash.of(self),
            numerics=NumericsSpec(weights=str(self._weight_type).removeprefix("torch.")),
            provenance=self.provenance,
            metrics=self.metrics,
        )

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    # ---------------------------------------------------------------- what downstream models call

    def preprocess(self, images: Images) -> Tensor:
        """Images of any common kind to a batch on this tokenizer's device, by the spec's image policy.

        Args:
            images: A PIL image, path, array (H, W, 3) or tensor, or a list of them.

        Shapes:
            -> (B, 3, H, W) float32 in [-1, 1], H and W multiples of the factor.

        Raises:
            ImageError: an image that cannot be read or that the policy refuses.
        """
        return preprocess(images, self.image_policy, self.encoder.factor).to(self.device)

    def encode(self, x: Tensor, *, sample: bool = False) -> Encoded:
        """Images to tokens, without gradients; as in evaluation mode, whatever mode the module is in.

        Args:
            x: (B, 3, H, W) in [-1, 1].
            sample: Draw continuous latents instead of taking the mode; nothing changes for discrete ones.

        Shapes:
            -> indices (B, N, S) int64 or latents (B, N, D), N = h * w in raster order.

        Raises:
            ImageError: wrong shape, pixels that are not finite or outside [-1, 1], a size that the factor does not divide.
        """
        self._check_pixels(x)
        with torch.no_grad(), self._evaluating():
            latent = self._latent(x)
            grid = tuple(latent.shape[1:3])
            if self.normaliser is not None:
                raw = self.quantizer.sample(latent) if sample else self.quantizer(latent).quantized
                tokens = StreamTokens(None, self.normaliser(raw).flatten(1, 2), grid)
            else:
                tokens = StreamTokens(
                    views.with_groups(self.quantizer, self.quantizer(latent).indices), None, grid
                )
        return Encoded({self.quantizer.stream().name: tokens}, (x.shape[-2], x.shape[-1]))

    def moments(self, x: Tensor) -> Encoded:
        """Images to the distribution of their latents, as ``encode`` otherwise.

        Shapes:
            -> latents (B, N, 2 D): D means, which ``encode`` gives, then D standard deviations, all normalised.

        Raises:
            TokenizerError: the latents of this tokenizer have no distribution.
            ImageError: as ``encode``.
        """
        if self.normaliser is None or not isinstance(self.quantizer, Gaussian):
            raise TokenizerError(
                f"{self.name} has no moments: its latents have no distribution, as those of Gaussian have"
            )
        self._check_pixels(x)
        with torch.no_grad(), self._evaluating():
            latent = self._latent(x)
            mean, deviation = self.quantizer.moments(latent)
            moments = torch.cat([self.normaliser(mean), self.normaliser.rescale(deviation)], -1).flatten(1, 2)
        tokens = StreamTokens(None, moments, tuple(latent.shape[1:3]))
        return Encoded({self.quantizer.stream().name: tokens}, (x.shape[-2], x.shape[-1]))

    def decode(
        self,
        encoded: Encoded | None = None,
        *,
        indices: Tensor | None = None,
        latents: Tensor | None = None,
        grid: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Tokens to images, from what ``encode`` gave or from indices or latents with their grid.

        Gradients reach latents that ask for them; otherwise no graph is built.

        Shapes:
            indices (B, N, S) or latents (B, N, D) -> (B, 3, H, W) in [-1, 1].

        Raises:
            TokenizerError: no pixel decoder, or tokens that do not fit the grid or the codebook.
        """
        if self.decoder is None:
            raise TokenizerError(
                f"{self.name} has no pixel decoder: it gives features (semantic) and tokens only"
            )
        tokens = given_tokens(self.quantizer, encoded, indices, latents, grid)
        with self._gradients_of(tokens.values), self._evaluating():
            image: Tensor = self.decoder(self._vectors(tokens))
        return image.float().clamp(-1, 1)

    def embed(self, tokens: Tensor | Encoded, *, depthwise: bool = False, cumulative: bool = False) -> Tensor:
        """Post-quantization vectors, the input of a language model.

        Args:
            tokens: Indices (B, N, S), latents (B, N, D), or what ``encode`` gave.
            depthwise: One vector per group or stage instead of their combination.
            cumulative: Sums over scales up to each position's; only multi-scale tokenizers have them.

        Shapes:
            -> (B, N, D), or (B, N, S, d) depthwise.

        Raises:
            TokenizerError: indices outside the codebook, or a view that this tokenizer does not have.
        """
        values = tokens.main.values if isinstance(tokens, Encoded) else tokens
        if not isinstance(values, Tensor):
            raise TokenizerError(f"embed takes a tensor or what encode gave, not {type(values).__name__}")
        values = values.to(self.device)
        if cumulative:
            with _explained(f"{self.name} cannot embed tokens"):
                self._check_groups(values)
                return views.up_to_scale(
                    self.quantizer, values, tokens.grid if isinstance(tokens, Encoded) else None
                )
        if self.normaliser is not None:
            vectors: Tensor = self.normaliser.inverse(checked_latents(values, self.quantizer.dim))
            return vectors.unsqueeze(-2) if depthwise else vectors
        with torch.no_grad(), _explained("tokens cannot be embedded"):
            self._check_groups(values)
            return (
                self.quantizer.depthwise(values) if depthwise else views.by_position(self.quantizer, values)
            )

    def semantic(self, x: Tensor) -> Tensor:
        """Features in the teacher's space, read from the quantized vectors.

        Shapes:
            x (B, 3, H, W) in [-1, 1] -> (B, Ns, Ds).

        Raises:
            TokenizerError: no semantic branch.
        """
        if self.feature_head is None:
            raise TokenizerError(
                f"{self.name} has no semantic branch: train one with a feature head, as recipes/semantic_vq.yaml does"
            )
        self._check_pixels(x)
        with torch.no_grad(), self._evaluating():
            quantized = self.quantizer(self._latent(x)).quantized
            features: Tensor = self.feature_head(self._to_decoder(quantized))
        return features.flatten(1, 2)

    def save(self, folder: str | Path) -> None:
        """Writes ``model.safetensors`` and ``config.json``, whole or not at all.

        Raises:
            TokenizerError: a place that cannot be written, or that holds something else.
        """
        from vistok.tokenizer.saving import save

        save(self, folder)

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Uploads it to the Hugging Face Hub and returns its address.

        Raises:
            TokenizerError: no ``huggingface_hub``, no network or no permission.
        """
        from vistok.tokenizer.saving import push_to_hub

        return push_to_hub(self, repo_id, private=private)

    # ---------------------------------------------------------------- what training calls

    def forward(self, x: Tensor) -> Reconstruction:
        """The differentiable way through, in the module's own mode.

        Shapes:
            x (B, 3, H, W) in [-1, 1] -> see ``Reconstruction``.
        """
        output = self.quantizer(self._latent(x))
        vectors = self._to_decoder(output.quantized)
        return Reconstruction(
            image=None if self.decoder is None else self.decoder(vectors),
            features=None if self.feature_head is None else self.feature_head(vectors),
            losses=output.losses,
            indices=None if output.indices is None else views.with_groups(self.quantizer, output.indices),
        )

    def prepare(self, x: Tensor) -> None:
        """Lets the quantizer see latents before the first training step (k-means), unless it is frozen. Collective."""
        if not self.quantizer.training:
            return
        with torch.no_grad(), self._evaluating():
            latent = self._latent(x)
        self.quantizer.prepare(latent)

    def update(self) -> None:
        """Applies the quantizer's statistics; to be called once after each optimizer step. Collective.

        A quantizer in evaluation mode, as a frozen one is, learns nothing.
        """
        if self.quantizer.training:
            self.quantizer.update()

    # ---------------------------------------------------------------- inside

    @property
    def _weight_type(self) -> torch.dtype:
        return next((p.dtype for p in self.encoder.parameters() if p.is_floating_point()), torch.float32)

    def _latent(self, x: Tensor) -> Tensor:
        latent: Tensor = self.project_in(self.encoder(x.to(self._weight_type)))
        return latent

    def _to_decoder(self, quantized: Tensor) -> Tensor:
        target = self.decoder if self.decoder is not None else self.feature_head
        parameters = (p.dtype for m in (self.project_out, target) if m is not None for p in m.parameters())
        vectors: Tensor = self.project_out(quantized.to(next(parameters, quantized.dtype)))
        return vectors

    def _vectors(self, tokens: StreamTokens) -> Tensor:
        if self.normaliser is not None:
            if tokens.latents is None:
                raise TokenizerError(f"{self.name} is continuous: decode takes latents, not indices")
            raw = self.normaliser.inverse(checked_latents(tokens.latents.to(self.device), self.quantizer.dim))
            with _explained("tokens cannot be decoded"):
                return self._to_decoder(views.fill(raw, tokens.grid))
        if tokens.indices is None:
            raise TokenizerError(f"{self.name} is discrete: decode takes indices, not latents")
        with _explained("tokens cannot be decoded"):
            self._check_groups(tokens.indices)
            raw = views.on_grid(self.quantizer, tokens.indices.to(self.device), tokens.grid)
        return self._to_decoder(raw)

    def _check_groups(self, indices: Tensor) -> None:
        if indices.ndim != 3 or indices.shape[-1] != self.quantizer.num_groups:
            raise ValueError(
                f"indices must be (B, N, {self.quantizer.num_groups}), they are {tuple(indices.shape)}"
            )

    @staticmethod
    def _gradients_of(values: Tensor) -> torch.autograd.grad_mode.set_grad_enabled:
        return torch.set_grad_enabled(torch.is_grad_enabled() and values.requires_grad)

    def _check_pixels(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise ImageError(
                f"encode takes a tensor (B, 3, H, W), not {type(x).__name__}: use preprocess first"
            )
        if not torch.compiler.is_compiling():
            check_pixels(x, self.encoder.factor, f"the input of {self.name}")

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        modes = [(part, part.training) for part in self.modules()] if self.training else []
        if modes:
            self.eval()
        try:
            yield
        finally:
            for part, mode in modes:
                part.training = mode


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise TokenizerError(f"{what}: {error}") from error
