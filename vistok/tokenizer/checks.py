"""What a tokenizer refuses: parts that do not meet, tokens that do not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vistok.backbones.base import Decoder, Encoder, FeatureHead
from vistok.errors import TokenizerError
from vistok.quantizers import Quantizer
from vistok.tokenizer import views
from vistok.tokenizer.encoded import Encoded, StreamTokens

if TYPE_CHECKING:
    from vistok.tokenizer.tokenizer import Tokenizer


def check_parts(tokenizer: Tokenizer) -> None:
    """Makes sure that the parts of a tokenizer meet.

    Raises:
        ValueError: a part of the wrong kind, or channels or factors that differ; the message names both.
    """
    for name, part, kind in (
        ("encoder", tokenizer.encoder, Encoder),
        ("quantizer", tokenizer.quantizer, Quantizer),
        ("decoder", tokenizer.decoder, Decoder),
        ("feature_head", tokenizer.feature_head, FeatureHead),
    ):
        if not isinstance(part, kind) and (part is not None or name in ("encoder", "quantizer")):
            raise ValueError(f"{name} is {type(part).__name__}, it must be a {kind.__name__}")

    def last(module: nn.Module, fallback: int) -> int:
        return int(getattr(module, "dim_out", fallback))

    arriving = last(tokenizer.project_in, tokenizer.encoder.dim)
    if arriving != tokenizer.quantizer.dim_in:
        raise ValueError(
            f"the quantizer expects {tokenizer.quantizer.dim_in} channels, {arriving} arrive: set project_in to map them"
        )
    leaving = last(tokenizer.project_out, tokenizer.quantizer.dim)
    for part in (tokenizer.decoder, tokenizer.feature_head):
        if part is not None and part.dim != leaving:
            raise ValueError(
                f"{type(part).__name__} expects {part.dim} channels, {leaving} arrive: set project_out to map them"
            )
    modulating = getattr(tokenizer.decoder, "code_dim", tokenizer.quantizer.dim)
    if modulating != tokenizer.quantizer.dim:
        raise ValueError(
            f"code_dim of the decoder is {modulating}, the quantizer's vectors have {tokenizer.quantizer.dim} channels: make them equal"
        )
    if tokenizer.decoder is not None and tokenizer.decoder.factor != tokenizer.encoder.factor:
        raise ValueError(
            f"the encoder's factor is {tokenizer.encoder.factor}, the decoder's {tokenizer.decoder.factor}: they must be equal"
        )


def given_tokens(
    quantizer: Quantizer,
    encoded: Encoded | None,
    indices: Tensor | None,
    latents: Tensor | None,
    grid: tuple[int, ...] | None,
) -> StreamTokens:
    """What ``decode`` was given, as one stream.

    Raises:
        TokenizerError: too much or too little, tokens without a shape (B, N, S) or (B, N, D), or no grid to be guessed.
    """
    if encoded is not None:
        if indices is not None or latents is not None or grid is not None:
            raise TokenizerError(
                "decode takes what encode gave, or indices or latents with their grid, not both"
            )
        return encoded.main
    if (indices is None) == (latents is None):
        raise TokenizerError("decode takes what encode gave, or one of indices and latents")
    values = indices if indices is not None else latents
    if not isinstance(values, Tensor) or values.ndim != 3 or 0 in values.shape:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise TokenizerError(f"tokens must be a tensor (B, N, S) or (B, N, D), not empty; they are {shape}")
    try:
        grid = views.square_grid(quantizer, values.shape[1]) if grid is None else tuple(grid)
    except ValueError as error:
        raise TokenizerError(f"tokens cannot be decoded: {error}") from error
    if len(grid) != 2 or min(grid) < 1:
        raise TokenizerError(f"the grid is {grid}, it must be (h, w), both at least 1")
    return StreamTokens(indices, latents, grid)


def checked_latents(latents: Tensor, dim: int) -> Tensor:
    """Latents (B, N, dim) in float32.

    Raises:
        TokenizerError: another shape or type, or values that are not finite.
    """
    if latents.ndim != 3 or latents.shape[-1] != dim or not latents.is_floating_point():
        raise TokenizerError(
            f"latents must be float (B, N, {dim}), they are {latents.dtype} {tuple(latents.shape)}"
        )
    if not torch.compiler.is_compiling() and not bool(latents.detach().isfinite().all()):
        raise TokenizerError("latents hold NaN or Inf: the model that made them diverged")
    return latents.float()
