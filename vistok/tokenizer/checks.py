"""What a tokenizer refuses: parts that do not meet, tokens that do not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vistok.backbones.attention_projection import AttentionProjection
from vistok.backbones.base import Decoder, Encoder, FeatureHead
from vistok.errors import TokenizerError
from vistok.quantizers import Continuous, MultiScale, Quantizer
from vistok.tokenizer import views
from vistok.tokenizer.encoded import Encoded, StreamTokens
from vistok.tokenizer.parts import StreamParts

if TYPE_CHECKING:
    from vistok.tokenizer.tokenizer import Tokenizer


def check_parts(tokenizer: Tokenizer) -> None:
    """Makes sure that the parts of a tokenizer meet.

    Raises:
        ValueError: a part of the wrong kind, or channels, factors or grids that differ; the message names both.
    """
    decoder = tokenizer.decoder
    if decoder is not None and not isinstance(decoder, Decoder):
        raise ValueError(f"decoder is {type(decoder).__name__}, it must be a Decoder")
    for parts in (tokenizer, *tokenizer.branches):
        if not isinstance(parts, StreamParts):
            raise ValueError(f"a branch is {type(parts).__name__}, it must be a Branch")
        _check_stream(parts)
        if parts is not tokenizer and parts.encoder.topology == "ragged":
            raise ValueError("only the first stream may have sequences of varying length")
    if decoder is not None:
        dim, code_dim, factor = _arriving(tokenizer)
        _check_dim(decoder, dim)
        modulating = getattr(decoder, "code_dim", code_dim) if decoder.modulated else code_dim
        if modulating != code_dim:
            raise ValueError(
                f"code_dim of the decoder is {modulating}, quantized vectors of {code_dim} channels arrive: make them equal"
            )
        if decoder.topology == "2d" and decoder.factor != factor:
            of = "the encoder's factor is" if not len(tokenizer.branches) else "the merged grid has factor"
            raise ValueError(f"{of} {factor}, the decoder's {decoder.factor}: they must be equal")
        if decoder.topology == "2d" and len(tokenizer.encoder.pools) > 1:
            raise ValueError(
                "a grid of several poolings has no pixel decoder: give features only, or one pooling"
            )
        _check_topology(decoder, tokenizer)
    _check_streams(tokenizer)


def _check_stream(parts: StreamParts) -> None:
    for name, part, kind in (
        ("encoder", parts.encoder, Encoder),
        ("quantizer", parts.quantizer, Quantizer),
        ("feature_head", parts.feature_head, FeatureHead),
    ):
        if not isinstance(part, kind) and (part is not None or name != "feature_head"):
            raise ValueError(f"{name} is {type(part).__name__}, it must be a {kind.__name__}")
    arriving = int(getattr(parts.project_in, "dim_out", parts.encoder.dim))
    if arriving != parts.quantizer.dim_in:
        raise ValueError(
            f"the quantizer expects {parts.quantizer.dim_in} channels, {arriving} arrive: set project_in to map them"
        )
    if parts.encoder.topology != "2d" and isinstance(parts.quantizer, MultiScale):
        raise ValueError(f"MultiScale needs a grid, {type(parts.encoder).__name__} gives a sequence")
    if parts.encoder.topology == "ragged":
        for module in (parts.quantizer, parts.project_in, parts.project_out):
            if isinstance(module, (Continuous, AttentionProjection)):
                raise ValueError(f"{type(module).__name__} cannot take sequences of varying length")
        if parts.feature_head is not None and parts.feature_head.topology == "any":
            raise ValueError(f"{type(parts.feature_head).__name__} cannot take sequences of varying length")
    if parts.feature_head is not None:
        _check_dim(parts.feature_head, parts.dim_out)
        _check_topology(parts.feature_head, parts)


def _check_dim(part: Decoder | FeatureHead, arriving: int) -> None:
    if part.dim != arriving:
        raise ValueError(
            f"{type(part).__name__} expects {part.dim} channels, {arriving} arrive: set project_out to map them"
        )


def _check_topology(part: Decoder | FeatureHead, parts: StreamParts) -> None:
    given = "2d" if parts.encoder.topology == "2d" else "1d"
    if part.topology not in (given, "any"):
        kinds = {"2d": "a grid", "1d": "a sequence"}
        raise ValueError(
            f"{type(parts.encoder).__name__} gives {kinds[given]}, {type(part).__name__} takes {kinds[part.topology]}"
        )


def _arriving(tokenizer: Tokenizer) -> tuple[int, int, int]:
    """What reaches the pixel decoder: channels after and before projection, and the factor."""
    assert tokenizer.decoder is not None
    dim, code_dim, factor = tokenizer.dim_out, tokenizer.quantizer.dim, tokenizer.encoder.factor
    for parts in tokenizer.streams.values():
        if parts.merge is not None:
            dim = parts.merge.dim(dim, parts.dim_out)
            if tokenizer.decoder.modulated:
                code_dim = parts.merge.dim(code_dim, parts.quantizer.dim)
            factor = parts.encoder.factor if parts.merge.onto == "branch" else factor
    return dim, code_dim, factor


def _check_streams(tokenizer: Tokenizer) -> None:
    """What holds among several streams."""
    parts = list(tokenizer.streams.values())
    if len(parts) < 1 + len(tokenizer.branches):
        raise ValueError(
            f"streams need different names, two of them have one of {', '.join(tokenizer.streams)}"
        )
    if sum(part.feature_head is not None for part in parts) > 1:
        raise ValueError("several streams have a feature head: at most one can")
    if sum(isinstance(part.quantizer, Continuous) for part in parts) > 1:
        raise ValueError("several streams are continuous: a spec describes the latents of one")
    merged = [part for part in parts if part.merge is not None]
    if merged and tokenizer.decoder is None:
        raise ValueError("streams are merged for a pixel decoder: add one, or leave merge out")
    if merged and any(part.encoder.topology != "2d" for part in (tokenizer, *merged)):
        raise ValueError("only streams on grids can be merged")


def given_tokens(
    tokenizer: Tokenizer,
    encoded: Encoded | None,
    indices: Tensor | None,
    latents: Tensor | None,
    grid: tuple[int, ...] | None,
) -> tuple[dict[str, StreamTokens], Tensor | None]:
    """What ``decode`` was given, by stream, and lengths (B,) where they vary.

    Raises:
        TokenizerError: too much or too little, a missing stream, tokens without a shape (B, N, S) or (B, N, D), or no grid
            to be guessed.
    """
    names = list(tokenizer.streams)
    if encoded is None:
        if len(names) > 1:
            raise TokenizerError(
                f"{tokenizer.name} has the streams {', '.join(names)}: decode takes them together, as Encoded"
            )
        tokens = _bare_tokens(tokenizer, indices, latents, grid)
        return {names[0]: tokens}, _lengths(tokenizer, tokens, None)
    if indices is not None or latents is not None or grid is not None:
        raise TokenizerError("decode takes what encode gave, or indices or latents with their grid, not both")
    if len(names) == 1:
        return {names[0]: encoded.main}, _lengths(tokenizer, encoded.main, encoded.lengths)
    missing = [name for name in names if name not in encoded]
    if missing:
        raise TokenizerError(f"{tokenizer.name} cannot decode without stream {missing[0]}")
    return {name: encoded[name] for name in names}, _lengths(tokenizer, encoded[names[0]], encoded.lengths)


def _lengths(tokenizer: Tokenizer, tokens: StreamTokens, given: Tensor | None) -> Tensor | None:
    if tokenizer.encoder.topology != "ragged":
        return None
    if given is not None:
        return given.to(tokenizer.device)
    batch, longest = tokens.values.shape[:2]
    return torch.full((batch,), longest, device=tokenizer.device)


def _bare_tokens(
    parts: StreamParts,
    indices: Tensor | None,
    latents: Tensor | None,
    grid: tuple[int, ...] | None,
) -> StreamTokens:
    """Tokens that ``decode`` was given without their ``Encoded``, as one stream."""
    if (indices is None) == (latents is None):
        raise TokenizerError("decode takes what encode gave, or one of indices and latents")
    values = indices if indices is not None else latents
    if not isinstance(values, Tensor) or values.ndim != 3 or 0 in values.shape:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise TokenizerError(f"tokens must be a tensor (B, N, S) or (B, N, D), not empty; they are {shape}")
    if parts.encoder.topology != "2d":
        longest = parts.encoder.num_tokens
        if grid is not None and tuple(grid) not in ((values.shape[1],), (longest,)):
            raise TokenizerError(f"the grid is {tuple(grid)}, tokens of a sequence have ({longest},)")
        return StreamTokens(indices, latents, (values.shape[1],))
    try:
        grid = views.square_grid(parts.quantizer, values.shape[1]) if grid is None else tuple(grid)
    except ValueError as error:
        raise TokenizerError(f"tokens cannot be decoded: {error}") from error
    if len(grid) != 2 or min(grid) < 1:
        raise TokenizerError(f"the grid is {grid}, it must be (h, w), both at least 1")
    return StreamTokens(indices, latents, grid)
