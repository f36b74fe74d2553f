"""From a short sequence back to a grid: one learned mask token a grid point, filled in by attention."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from vistok.backbones.base import Decoder, FeatureHead
from vistok.backbones.projection import MLP
from vistok.backbones.sequence import SequenceTransformer, learned_vectors, valid
from vistok.backbones.vit import LearnedPositions


class MaskTokenHead(FeatureHead):
    """Predicts features on a grid from a sequence of vectors.

    Of a proxy tokenizer with K codes, ``dim_out`` = K features are the logits of its codes.

    Source: Yu et al., TiTok (2024), arXiv:2406.07550, sections 3.2 and 3.3. Deviations: no class token.

    Args:
        dim: Channels of the vectors.
        dim_out: Channels of the features.
        grid: (h, w) of the features.
        num_tokens: N; the longest sequence where lengths vary.
        width: Channels of the transformer.
        depth: Transformer blocks.
        num_heads: Attention heads.

    Shapes:
        quantized (B, N, dim) -> features (B, h, w, dim_out). With lengths (B,), N may be smaller, and what lies beyond an
        image's length is not seen.

    Raises:
        ValueError: a grid that is not (h, w), another number of vectors, or a width that the heads do not divide.
    """

    topology = "1d"

    def __init__(
        self,
        dim: int,
        dim_out: int,
        grid: Sequence[int],
        num_tokens: int,
        width: int = 512,
        depth: int = 8,
        num_heads: int = 8,
    ) -> None:
        super().__init__()
        if len(grid) != 2 or min(grid) < 1:
            raise ValueError(f"the grid is {tuple(grid)}, it must be (h, w), both at least 1")
        self.dim, self.dim_out, self.num_tokens = dim, dim_out, num_tokens
        self.grid = (int(grid[0]), int(grid[1]))
        self.project_in = nn.Linear(dim, width)
        self.mask_token = learned_vectors(1, width)
        self.grid_positions = LearnedPositions(self.grid, width)
        self.token_positions = learned_vectors(num_tokens, width)
        self.transformer = SequenceTransformer(width, depth, num_heads)
        self.project_out = MLP(width, 2 * width, dim_out, "tanh")

    def forward(self, quantized: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Predicts."""
        batch, num_tokens, _ = quantized.shape
        if num_tokens > self.num_tokens or (lengths is None and num_tokens < self.num_tokens):
            raise ValueError(f"{num_tokens} tokens came, the decoder was made for {self.num_tokens}")
        tokens = self.project_in(quantized)
        tokens = tokens + self.token_positions[:, :num_tokens].to(tokens.dtype)
        masks = self.mask_token.to(tokens.dtype).expand(batch, prod(self.grid), -1)
        masks = self.grid_positions(masks.reshape(batch, *self.grid, -1)).flatten(1, 2).to(tokens.dtype)
        seen = None if lengths is None else self._seen(lengths.to(tokens.device), num_tokens)
        x = self.transformer(torch.cat([masks, tokens], dim=1), seen)
        features: Tensor = self.project_out(x[:, : prod(self.grid)])
        return features.reshape(batch, *self.grid, -1)

    def _seen(self, lengths: Tensor, num_tokens: int) -> Tensor:
        """Every row sees the grid and the vectors that there are: (B, 1, 1, h * w + N)."""
        everywhere = torch.ones(len(lengths), prod(self.grid), dtype=torch.bool, device=lengths.device)
        return torch.cat([everywhere, valid(lengths, num_tokens)], dim=1)[:, None, None]


class MaskTokenDecoder(Decoder):
    """A sequence of vectors to pixels: to features on a grid first, then by any decoder of grids.

    With ``ViTDecoder(depth=0)`` each grid point becomes a patch straight away, as in TiTok's one-stage training. Its two
    stages end in a proxy tokenizer's decoder: ``head`` gives the logits of the proxy's codes and ``project`` is
    ``SoftCodes``, the proxy's codebook.

    Source: Yu et al., TiTok (2024), arXiv:2406.07550, section 3.3; Kim et al., TA-TiTok (2025), arXiv:2501.07730.

    Args:
        head: From the sequence to features on a grid.
        decoder: From the grid to pixels.
        project: From the head's channels to the decoder's; None where they are equal.

    Shapes:
        quantized (B, N, dim) -> image (B, 3, H, W), H = h * factor of the decoder.

    Raises:
        ValueError: channels that do not meet, or a decoder that takes more than a grid.
    """

    topology = "1d"

    def __init__(self, head: MaskTokenHead, decoder: Decoder, project: nn.Module | None = None) -> None:
        super().__init__()
        arriving = int(getattr(project, "dim_out", head.dim_out))
        if decoder.topology != "2d" or decoder.modulated:
            raise ValueError(f"{type(decoder).__name__} does not decode features on a grid alone")
        if arriving != decoder.dim:
            raise ValueError(
                f"{type(decoder).__name__} expects {decoder.dim} channels, {arriving} arrive: set project to map them"
            )
        self.head, self.decoder = head, decoder
        self.project = project if project is not None else nn.Identity()
        self.dim, self.factor = head.dim, decoder.factor
        self.image_size = (head.grid[0] * decoder.factor, head.grid[1] * decoder.factor)

    @property
    def last_layer(self) -> nn.Parameter:
        """That of the decoder to pixels."""
        return self.decoder.last_layer

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Those of the decoder to pixels."""
        return self.decoder.loss_names

    def loss(self, quantized: Tensor, image: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
        """The losses of the decoder to pixels."""
        return self.decoder.loss(self.project(self.head(quantized, lengths)), image)

    def forward(self, quantized: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Decodes."""
        return self.decoder(self.project(self.head(quantized, lengths)))  # type: ignore[no-any-return]
