"""Tiny tokenizers of every topology: sequences, several streams, several poolings, varying lengths."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vistok.backbones import (
    ConvDecoder,
    ConvEncoder,
    FeatureDecoder,
    JoinedEncoder,
    Linear,
    MaskTokenDecoder,
    MaskTokenHead,
    ModulatedDecoder,
    PooledEncoder,
    QueryEncoder,
    SelectingEncoder,
    SoftCodes,
    ViTDecoder,
    ViTEncoder,
)
from vistok.quantizers import VQ, Gaussian, MultiScale, ProjectedCodebook, Quantizer, Residual, SharedIndex
from vistok.tokenizer import Branch, CodeNoise, Merge, Tokenizer

SIDE = 32
"""Pixels of the images that all of them take."""


def conv(dim: int, patch: int = 8) -> ConvEncoder:
    """A convolutional encoder of factor ``patch``."""
    return ConvEncoder(dim, channels=8, multipliers=(1,), num_res_blocks=1, patch=patch)


def pixels(dim: int, patch: int = 8) -> ConvDecoder:
    """A convolutional decoder of factor ``patch``."""
    return ConvDecoder(dim, channels=8, multipliers=(1,), num_res_blocks=1, patch=patch)


def sequence(quantizer: Quantizer | None = None, order: str = "raster") -> Tokenizer:
    """Six tokens an image, as TiTok has them."""
    quantizer = quantizer if quantizer is not None else VQ(16, 4)
    trunk = ViTEncoder(8, 16, depth=0, num_heads=2, positions="learned", grid=(4, 4))
    head = MaskTokenHead(quantizer.dim, 12, (4, 4), 6, width=16, depth=1, num_heads=2)
    return Tokenizer(
        QueryEncoder(trunk, 6, width=24, depth=2, num_heads=2, order=order),
        quantizer,
        MaskTokenDecoder(head, ViTDecoder(8, 12, depth=0, num_heads=1)),
        project_in=Linear(24, quantizer.dim_in),
        name="sequence",
    )


def proxy() -> Tokenizer:
    """A sequence whose feature head gives logits of a proxy's codes: TiTok's first stage."""
    return Tokenizer(
        conv_queries(),
        VQ(16, 4, metric="cosine"),
        project_in=Linear(16, 4),
        feature_head=MaskTokenHead(4, 10, (4, 4), 6, width=16, depth=1, num_heads=2),
        name="proxy",
    )


def proxy_pixels() -> Tokenizer:
    """The same, read by a proxy's codebook and pixel decoder: TiTok's second stage."""
    head = MaskTokenHead(4, 10, (4, 4), 6, width=16, depth=1, num_heads=2)
    return Tokenizer(
        conv_queries(),
        VQ(16, 4, metric="cosine"),
        MaskTokenDecoder(head, pixels(8), project=SoftCodes(10, 8)),
        project_in=Linear(16, 4),
        name="proxy_pixels",
    )


def conv_queries() -> QueryEncoder:
    """Queries on a convolutional trunk whose channels differ."""
    return QueryEncoder(conv(8), 6, width=16, depth=1, num_heads=2, order="causal")


def dual(modulated: bool = False) -> Tokenizer:
    """A semantic stream on a coarse grid and a pixel stream on a fine one, merged as DualViTok does."""
    modulating = ModulatedDecoder(
        20, 10, channels=8, multipliers=(1, 1, 1, 1), num_res_blocks=1, attention_at=()
    )
    return Tokenizer(
        ViTEncoder(16, 16, depth=1, num_heads=2),
        VQ(16, 4, init="normal", codebook=ProjectedCodebook()),
        modulating if modulated else pixels(20),
        project_in=Linear(16, 4),
        project_out=Linear(4, 8),
        feature_head=FeatureDecoder(8, 12, width=16, depth=1, num_heads=2),
        branches=[
            Branch(
                conv(8),
                Residual(VQ(8, 6), 2),
                name="pixel",
                project_in=Linear(8, 6),
                project_out=Linear(6, 12),
                merge=Merge("concat", onto="branch"),
                noise=CodeNoise(replace=0.5, drop=0.2),
            )
        ],
        name="dual",
    )


def mixed() -> Tokenizer:
    """Discrete semantic tokens beside continuous latents, summed."""
    return Tokenizer(
        conv(8),
        VQ(16, 8),
        pixels(4),
        project_out=Linear(8, 4),
        feature_head=None,
        branches=[Branch(conv(8), Gaussian(4), name="detail", merge=Merge("sum", onto="main"))],
        name="mixed",
    )


def joined() -> Tokenizer:
    """Two encoders under one index on several scales, as TokenFlow has them."""
    stage = SharedIndex((VQ(16, 6, metric="cosine"), VQ(16, 2, metric="cosine")))
    return Tokenizer(
        JoinedEncoder([ViTEncoder(8, 16, depth=1, num_heads=2), conv(4)], [Linear(16, 6), Linear(4, 2)]),
        MultiScale(stage, (1, 2, 4), num_convolutions=2),
        pixels(8),
        feature_head=FeatureDecoder(8, 12, width=16, depth=1, num_heads=2),
        name="joined",
    )


def pooled() -> Tokenizer:
    """Features on three grids from one encoder, as TA-Tok has them."""
    return Tokenizer(
        PooledEncoder(ViTEncoder(4, 16, depth=1, num_heads=2), (1, 2, 3)),
        VQ(16, 4, init="normal", codebook=ProjectedCodebook()),
        project_in=Linear(16, 4),
        feature_head=FeatureDecoder(4, 12, width=16, depth=1, num_heads=2),
        name="pooled",
    )


def ragged() -> Tokenizer:
    """As many tokens as an image needs, as LaVIT has them."""
    return Tokenizer(
        SelectingEncoder(ViTEncoder(8, 16, depth=1, num_heads=2), max_tokens=16, depth=1, num_heads=2),
        VQ(16, 4),
        project_in=Linear(16, 4),
        decoder=MaskTokenDecoder(
            MaskTokenHead(4, 12, (4, 4), 16, width=16, depth=1, num_heads=2),
            ViTDecoder(8, 12, depth=0, num_heads=1),
        ),
        feature_head=MaskTokenHead(4, 10, (4, 4), 16, width=16, depth=1, num_heads=2),
        name="ragged",
    )


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "sequence": sequence,
    "sequence_causal": lambda: sequence(order="causal"),
    "sequence_reversed": lambda: sequence(order="reversed"),
    "sequence_residual": lambda: sequence(Residual(VQ(8, 4), 2)),
    "sequence_continuous": lambda: sequence(Gaussian(4)),
    "proxy": proxy,
    "proxy_pixels": proxy_pixels,
    "dual": dual,
    "dual_modulated": lambda: dual(modulated=True),
    "mixed": mixed,
    "joined": joined,
    "pooled": pooled,
    "ragged": ragged,
}


def make(kind: str) -> Tokenizer:
    """The tokenizer of a kind, in evaluation mode; the same weights each time."""
    torch.manual_seed(0)
    return KINDS[kind]().eval()


def images(count: int = 3, side: int = SIDE) -> torch.Tensor:
    """Images (B, 3, side, side) in [-1, 1], smooth enough to differ from noise; the same each time."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, 3, 4, 4, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=side, mode="bilinear").clamp(-1, 1)
