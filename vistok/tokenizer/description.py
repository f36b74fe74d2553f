"""A tokenizer's spec, from its parts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vistok.spec import DecodingSpec, FeatureSpec, LatentSpec, NumericsSpec, Role, StreamSpec, TokenizerSpec

if TYPE_CHECKING:
    from vistok.tokenizer.parts import StreamParts
    from vistok.tokenizer.tokenizer import Tokenizer


def describe(tokenizer: Tokenizer, weights_hash: str) -> TokenizerSpec:
    """All that a consumer must know."""
    parts = list(tokenizer.streams.values())
    continuous = [part for part in parts if part.normaliser is not None]
    heads = [part.feature_head for part in parts if part.feature_head is not None]
    return TokenizerSpec(
        name=tokenizer.name,
        kind="discrete" if not continuous else "continuous" if len(continuous) == len(parts) else "both",
        streams=_streams(tokenizer),
        image=tokenizer.image_policy,
        multiple_of=tokenizer.multiple_of,
        features=FeatureSpec(
            quantized=tokenizer.quantizer.dim,
            depthwise=tokenizer.quantizer.dim_depthwise,
            semantic=heads[0].dim_out if heads else 0,
            text=heads[0].dim_out if heads and heads[0].shared_with_text else 0,
        ),
        latents=_latents(continuous[0]) if continuous else None,
        decoding=DecodingSpec(kind="features" if tokenizer.decoder is None else "pixels"),
        licence=tokenizer.licence,
        weights_hash=weights_hash,
        numerics=NumericsSpec(weights=str(tokenizer.weight_type).removeprefix("torch.")),
        provenance=tokenizer.provenance,
        metrics=tokenizer.metrics,
    )


def _streams(tokenizer: Tokenizer) -> tuple[StreamSpec, ...]:
    has_head = tokenizer.feature_head is not None
    if not len(tokenizer.branches):
        role: Role = "semantic" if tokenizer.decoder is None else "fused" if has_head else "pixel"
        return (replace(tokenizer.stream(), role=role),)
    return tuple(
        replace(part.stream(), name=name, role="pixel" if part.feature_head is None else "semantic")
        for name, part in tokenizer.streams.items()
    )


def _latents(part: StreamParts) -> LatentSpec:
    assert part.normaliser is not None
    shift, scale = (
        tuple(values.flatten().tolist()) for values in (part.normaliser.shift, part.normaliser.scale)
    )
    return LatentSpec(channels=part.quantizer.dim, shift=shift, scale=scale, grid=part.normaliser.grid)
