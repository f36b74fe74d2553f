"""For every layout that comes with vistok, a small tokenizer's spec that it fits, and what else it needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vistok.layouts import Layout, Template
from vistok.spec import LatentSpec, StreamSpec, TokenizerSpec

# a text vocabulary of single characters
CHARACTERS = {character: number for number, character in enumerate("0123456789*, abcdefgh")}
PIXEL = StreamSpec("pixel", quantizer="VQ", codebook_size=32, dim=4, factor=16)


def discrete(*streams: StreamSpec) -> TokenizerSpec:
    return TokenizerSpec("small", "discrete", streams or (PIXEL,))


def with_stream(**fields: Any) -> TokenizerSpec:
    return discrete(StreamSpec(**{"name": "pixel", "codebook_size": 32, "dim": 4, "factor": 16, **fields}))


def continuous(dim: int = 3) -> TokenizerSpec:
    stream = StreamSpec("pixel", quantizer="Gaussian", dim=dim, factor=8)
    return TokenizerSpec("small", "continuous", (stream,), latents=LatentSpec(channels=dim))


@dataclass(frozen=True)
class System:
    """A layout's tokenizer, and the grids that its images may have."""

    spec: TokenizerSpec
    grids: tuple[Any, ...] = ((2, 3), (4, 4), (1, 5), (3, 2))
    options: dict[str, Any] = field(default_factory=lambda: {"vocabulary": CHARACTERS})

    def layout(self, template: Template | str) -> Layout:
        return Layout(template, self.spec, **self.options)


SCALES = {"topology": "multiscale", "combinator": "multiscale", "scales": (1, 2, 3)}
SYSTEMS: dict[str, System] = {
    "anole": System(discrete()),
    "bagel": System(continuous(), ((2, 4), (4, 4), (6, 2))),
    "chameleon": System(discrete()),
    "emu3": System(discrete()),
    "emu3_5": System(discrete()),
    "harmon": System(continuous(), options={}),
    "illume_plus": System(
        discrete(
            StreamSpec("semantic", "semantic", codebook_size=16, factor=32),
            StreamSpec("pixel", codebook_size=32, factor=16),
        ),
        (((8, 4), (4, 2)), ((4, 8), (2, 4))),
    ),
    "infinity": System(with_stream(bits=5, **SCALES), ((3, 3), (3, 6)), {}),
    "janus": System(discrete()),
    "lavit": System(with_stream(topology="ragged", factor=0, max_tokens=9), ((1,), (5,), (9,))),
    "liquid": System(discrete()),
    "llamagen": System(discrete(), options={}),
    "metamorph": System(continuous()),
    "mmada": System(discrete()),
    "rae": System(continuous(), options={}),
    "seed": System(with_stream(topology="1d", factor=0, max_tokens=32), ((32,),)),
    "show_o": System(discrete()),
    "tar": System(discrete(), ((9, 9), (13, 13), (27, 27))),
    "tokenflow": System(with_stream(**SCALES), ((3, 3), (6, 3))),
    "transfusion": System(continuous(), ((2, 4), (4, 4), (6, 2))),
    "unitok": System(with_stream(num_groups=8, combinator="product"), options={"vocabulary": 32}),
    "var": System(with_stream(**SCALES), ((3, 3), (6, 6)), {}),
    "vila_u": System(with_stream(num_groups=4, combinator="residual")),
    "x_omni": System(discrete()),
}


@dataclass(frozen=True)
class Values:
    values: Tensor
    grid: tuple[int, ...]


def grids_of(spec: TokenizerSpec, grid: Any) -> tuple[tuple[int, ...], ...]:
    """The grid of each stream in the order of the template: of the one, or as they are given."""
    return (grid,) if isinstance(grid[0], int) else grid


def num_tokens(stream: StreamSpec, grid: tuple[int, ...]) -> int:
    if stream.topology == "multiscale":
        return sum(h * w for h, w in stream.scale_grids((grid[0], grid[1])))
    return int(torch.tensor(grid).prod())


def drawn(spec: TokenizerSpec, grid: Any, batch: int, seed: int) -> dict[str, Values]:
    """Random tokens of every stream; ILLUME+ names the pixel grid first."""
    generator = torch.Generator().manual_seed(seed)
    order = spec.streams if len(spec.streams) == 1 else tuple(reversed(spec.streams))
    found = {}
    for stream, own in zip(order, grids_of(spec, grid), strict=True):
        number = num_tokens(stream, own)
        if stream.codebook_size is None:
            values = torch.randn(batch, number, stream.dim, generator=generator)
        else:
            size = (batch, number, stream.num_groups)
            values = torch.randint(stream.codebook_size, size, generator=generator)
        found[stream.name] = Values(values, own)
    return found


def labels_for(layout: Layout, batch: int) -> Tensor | None:
    return torch.arange(batch) if layout.template.system in ("LlamaGen", "VAR") else None
