"""The differentiable way through a tokenizer, which training takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vistok.tokenizer.merge import merge_streams

if TYPE_CHECKING:
    from vistok.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Reconstruction:
    """What a training step needs: the differentiable way through the whole tokenizer.

    Args:
        image: (B, 3, H, W), not clamped; None without a pixel decoder, and in training where the decoder has a loss of
            its own.
        features: (B, h', w', Ds) in the teacher's space; None without a feature head.
        losses: Unweighted scalars by name: of encoders and quantizers, ``<stream>/<name>`` where there are several streams,
            and of a decoder that has its own.
        indices: (B, N, S) int64 of the first stream, (1, T, S) where lengths vary; None if continuous.
        streams: The same of every discrete stream, by name.
    """

    image: Tensor | None
    features: Tensor | None
    losses: dict[str, Tensor]
    indices: Tensor | None
    streams: dict[str, Tensor] = field(default_factory=dict)


def reconstruct(tokenizer: Tokenizer, x: Tensor) -> Reconstruction:
    """What a tokenizer makes of images, in its own mode.

    Shapes:
        x (B, 3, H, W) in [-1, 1] -> see ``Reconstruction``.
    """
    streams = tokenizer.streams
    outputs = {name: parts.quantize(x) for name, parts in streams.items()}
    first = next(iter(outputs.values()))
    losses = {
        tokenizer.loss_name(name, loss): value
        for name, output in outputs.items()
        for loss, value in output.losses.items()
    }
    image = None
    if tokenizer.decoder is not None:
        taken = decoder_inputs(
            tokenizer,
            {name: output.quantized for name, output in outputs.items()},
            {name: output.vectors for name, output in outputs.items()},
        )
        varying = () if first.lengths is None else (first.lengths,)
        losses |= tokenizer.decoder.loss(taken[0], x, *varying) if tokenizer.decoder.loss_names else {}
        if not (tokenizer.training and tokenizer.decoder.loss_names):
            image = tokenizer.decoder(*taken, *varying)
    return Reconstruction(
        image=image,
        features=next(
            (p.features(outputs[name]) for name, p in streams.items() if p.feature_head is not None), None
        ),
        losses=losses,
        indices=first.indices,
        streams={name: output.indices for name, output in outputs.items() if output.indices is not None},
    )


def decoder_inputs(
    tokenizer: Tokenizer, quantized: dict[str, Tensor], vectors: dict[str, Tensor]
) -> tuple[Tensor, ...]:
    """What the decoder takes: the projected vectors of all streams, merged, and where it is modulated those before."""
    assert tokenizer.decoder is not None
    streams = tokenizer.streams
    merged = merge_streams(streams, vectors)
    if len(vectors) > 1 and not torch.is_autocast_enabled(merged.device.type):
        # merging promotes to the widest type
        merged = merged.to(next(tokenizer.decoder.parameters(), merged).dtype)
    if not tokenizer.decoder.modulated:
        return (merged,)
    return merged, merge_streams(streams, quantized).to(merged.dtype)
