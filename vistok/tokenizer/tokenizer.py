"""The tokenizer: encoder -> quantizer -> decoder as one module, and the interface that downstream models see."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vistok.backbones.base import Decoder, Encoder, FeatureHead
from vistok.backbones.pooled_encoder import PooledEncoder
from vistok.errors import TokenizerError
from vistok.quantizers import Gaussian, Quantizer
from vistok.spec import ImagePolicy, TokenizerSpec
from vistok.tokenizer import views
from vistok.tokenizer.branch import Branch
from vistok.tokenizer.checks import check_parts, given_tokens
from vistok.tokenizer.description import describe
from vistok.tokenizer.encoded import Encoded, StreamTokens
from vistok.tokenizer.input_size import check_images, check_size, policy_of
from vistok.tokenizer.parts import StreamParts
from vistok.tokenizer.preprocess import Images, preprocess
from vistok.tokenizer.reconstruction import Reconstruction, decoder_inputs, reconstruct
from vistok.tokenizer.token_checks import check_groups, checked_latents, explained
from vistok.tokenizer.weights_hash import WeightsHash


class Tokenizer(StreamParts):
    """Images to tokens and back.

    The parts named here make the first stream of tokens; each branch adds one.

    Args:
        encoder: Images to latents.
        quantizer: Latents to tokens; a continuous one too.
        decoder: Quantized vectors to images; None where only features or tokens are wanted.
        project_in: From the encoder's channels to the quantizer's; None where they are equal.
        project_out: From the quantizer's channels to the decoder's and feature head's; None where they are equal.
        feature_head: Quantized vectors to a teacher's features: the semantic branch.
        image: How images become tensors; of the decoder's size where that gives one size alone.
        name: What the spec calls it.
        branches: Further streams, in the order of the spec. The first stream is then called ``semantic`` where it has a
            feature head, else ``pixel``.

    Raises:
        ValueError: parts whose channels, factors or grids do not meet; the message names both.
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
        branches: Sequence[Branch] = (),
    ) -> None:
        super().__init__()
        self.set_parts(encoder, quantizer, decoder, project_in, project_out, feature_head)
        self.branches = nn.ModuleList(branches)
        self.name = name
        self._hash = WeightsHash()
        self.provenance: dict[str, Any] = {}
        self.metrics: tuple[dict[str, Any], ...] = ()
        self.licence = "unknown"
        check_parts(self)
        self.set_normaliser()
        self.image_policy = policy_of(decoder, image)

    # ---------------------------------------------------------------- what it is

    @property
    def streams(self) -> dict[str, StreamParts]:
        """The parts of all streams by name, this tokenizer's own first."""
        first = "semantic" if len(self.branches) and self.feature_head is not None else "pixel"
        return {first: self, **{part.name: part for part in self.branches if isinstance(part, Branch)}}

    @property
    def continuous(self) -> tuple[str, StreamParts] | None:
        """Name and parts of the first stream that has latents; ``spec.latents`` tells of it."""
        return next(((n, parts) for n, parts in self.streams.items() if parts.normaliser is not None), None)

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the losses that a forward pass gives, as ``Reconstruction`` has them."""
        own = (
            self.loss_name(stream, loss)
            for stream, parts in self.streams.items()
            for loss in (*parts.encoder.loss_names, *parts.quantizer.loss_names)
        )
        return (*own, *(() if self.decoder is None else self.decoder.loss_names))

    def loss_name(self, stream: str, loss: str) -> str:
        """What the loss of a stream is called: ``<stream>/<loss>`` where there are several."""
        return f"{stream}/{loss}" if len(self.branches) else loss

    @property
    def multiple_of(self) -> int:
        """What both sides of an image must be multiples of, in pixels."""
        return math.lcm(*(parts.encoder.multiple_of for parts in self.streams.values()))

    @property
    def spec(self) -> TokenizerSpec:
        """All that a consumer must know, with the hash of the weights as they are now."""
        return describe(self, self._hash.of(self))

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def to_config(self) -> dict[str, Any]:
        """The class name and the arguments; branches only where there are some, so that earlier configs stay equal."""
        config = super().to_config()
        if not config["args"]["branches"]:
            del config["args"]["branches"]
        return config

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
        return preprocess(images, self.image_policy, self.multiple_of).to(self.device)

    def encode(self, x: Tensor, *, sample: bool = False, pool: int | None = None) -> Encoded:
        """Images to tokens, without gradients; as in evaluation mode, whatever mode the module is in.

        Args:
            x: (B, 3, H, W) in [-1, 1].
            sample: Draw continuous latents instead of taking the mode; nothing changes for discrete ones.
            pool: Of the first stream, one of those that its spec offers; None for the default.

        Shapes:
            -> indices (B, N, S) int64 or latents (B, N, D), N = h * w in raster order, or what the spec's topology says.

        Raises:
            ImageError: wrong shape, pixels that are not finite or outside [-1, 1], a size that the factor does not divide
                or that the decoder does not give.
            TokenizerError: a pooling that the tokenizer does not offer.
        """
        check_images(self, x)
        found: dict[str, StreamTokens] = {}
        lengths: Tensor | None = None
        with torch.no_grad(), self._evaluating():
            for name, parts in self.streams.items():
                first = parts is self
                with explained(f"{self.name} cannot encode") if first and pool else nullcontext():
                    tokens, varying = parts.tokens(x, sample=sample, pool=pool if first else None)
                found[name] = tokens
                lengths = varying if first else lengths
        return Encoded(found, (x.shape[-2], x.shape[-1]), lengths)

    def pooled(self, pool: int) -> Tokenizer:
        """The same tokenizer, weights shared, whose default is another of its poolings; to make shards of that one, say.

        Raises:
            TokenizerError: a pooling that the tokenizer does not offer.
        """
        with explained(f"{self.name} cannot be pooled"):
            self.encoder.check_pool(pool)
        if not isinstance(self.encoder, PooledEncoder):
            return self
        other = copy.copy(self)
        other._modules = {**self._modules, "encoder": self.encoder.preferring(pool)}
        other._arguments = {**self._arguments, "encoder": other.encoder}
        return other

    def moments(self, x: Tensor) -> Encoded:
        """Images to the distribution of their latents, as ``encode`` otherwise; discrete streams to indices.

        Shapes:
            -> latents (B, N, 2 D): D means, which ``encode`` gives, then D standard deviations, all normalised.

        Raises:
            TokenizerError: the latents of this tokenizer have no distribution.
            ImageError: as ``encode``.
        """
        streams = self.streams
        continuous = [parts for parts in streams.values() if parts.normaliser is not None]
        if not continuous or not all(isinstance(parts.quantizer, Gaussian) for parts in continuous):
            raise TokenizerError(
                f"{self.name} has no moments: its latents have no distribution, as those of Gaussian have"
            )
        check_images(self, x)
        with torch.no_grad(), self._evaluating():
            found = {
                name: parts.distribution(x) if parts in continuous else parts.tokens(x)[0]
                for name, parts in streams.items()
            }
        return Encoded(found, (x.shape[-2], x.shape[-1]))

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
            TokenizerError: no pixel decoder, a stream that is missing, or tokens that do not fit the grid or the codebook.
        """
        if self.decoder is None:
            raise TokenizerError(
                f"{self.name} has no pixel decoder: it gives features (semantic) and tokens only"
            )
        tokens, lengths = given_tokens(self, encoded, indices, latents, grid)
        wanted = any(given.values.requires_grad for given in tokens.values())
        with torch.set_grad_enabled(torch.is_grad_enabled() and wanted), self._evaluating():
            with explained("tokens cannot be decoded"):
                quantized = {
                    name: self.streams[name].quantized(given, self.name, self.device)
                    for name, given in tokens.items()
                }
            vectors = {name: self.streams[name].projected(value) for name, value in quantized.items()}
            image: Tensor = self.decoder(
                *decoder_inputs(self, quantized, vectors), *(() if lengths is None else (lengths,))
            )
        return image.float().clamp(-1, 1)

    def embed(
        self,
        tokens: Tensor | Encoded,
        *,
        depthwise: bool = False,
        cumulative: bool = False,
        stream: str | None = None,
    ) -> Tensor:
        """Post-quantization vectors, the input of a language model.

        Args:
            tokens: Indices (B, N, S), latents (B, N, D), or what ``encode`` gave.
            depthwise: One vector per group or stage instead of their combination.
            cumulative: Sums over scales up to each position's; only multi-scale tokenizers have them.
            stream: Which one the tokens are of; the first by default.

        Shapes:
            -> (B, N, D), or (B, N, S, d) depthwise. What lies beyond an image's length means nothing.

        Raises:
            TokenizerError: indices outside the codebook, or a view or stream that this tokenizer does not have.
        """
        parts = self if stream is None else self._stream(stream)
        given = tokens[stream or next(iter(tokens))] if isinstance(tokens, Encoded) else None
        values = given.values if given is not None else tokens
        if not isinstance(values, Tensor):
            raise TokenizerError(f"embed takes a tensor or what encode gave, not {type(values).__name__}")
        values, quantizer = values.to(self.device), parts.quantizer
        if cumulative:
            with explained(f"{self.name} cannot embed tokens"):
                check_groups(quantizer, values)
                return views.up_to_scale(quantizer, values, None if given is None else given.grid)
        if parts.normaliser is not None:
            if given is not None:
                parts.normaliser.check_grid(given.grid)
            vectors: Tensor = parts.normaliser.inverse(checked_latents(values, quantizer.dim))
            return vectors.unsqueeze(-2) if depthwise else vectors
        with torch.no_grad(), explained("tokens cannot be embedded"):
            check_groups(quantizer, values)
            return quantizer.depthwise(values) if depthwise else views.by_position(quantizer, values)

    def semantic(self, x: Tensor) -> Tensor:
        """Features in the teacher's space, read from the quantized vectors.

        Shapes:
            x (B, 3, H, W) in [-1, 1] -> (B, Ns, Ds).

        Raises:
            TokenizerError: no semantic branch.
        """
        parts = next((p for p in self.streams.values() if p.feature_head is not None), None)
        if parts is None:
            raise TokenizerError(
                f"{self.name} has no semantic branch: train one with a feature head, as recipes/semantic_vq.yaml does"
            )
        check_images(self, x)
        with torch.no_grad(), self._evaluating():
            features = parts.features(parts.quantize(x))
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
        check_size(self, x)
        return reconstruct(self, x)

    def prepare(self, x: Tensor) -> None:
        """Lets quantizers see latents before the first training step (k-means), unless they are frozen. Collective."""
        for parts in self.streams.values():
            if parts.quantizer.training:
                with torch.no_grad(), self._evaluating():
                    rows = parts.rows(x)
                parts.quantizer.prepare(rows)

    def update(self) -> None:
        """Applies the quantizers' statistics; to be called once after each optimizer step. Collective.

        A quantizer in evaluation mode, as a frozen one is, learns nothing.
        """
        for parts in self.streams.values():
            if parts.quantizer.training:
                parts.quantizer.update()

    # ---------------------------------------------------------------- inside

    def _stream(self, name: str) -> StreamParts:
        if name not in self.streams:
            raise TokenizerError(f"{self.name} has no stream {name!r}, it has {', '.join(self.streams)}")
        return self.streams[name]

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
