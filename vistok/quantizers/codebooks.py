"""What holds the codes of a quantizer, and how they may move."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vistok.recorded import Recorded

C = TypeVar("C", bound="Codebook")

STARTS = ("kmeans", "uniform", "normal")


class Codebook(Recorded, nn.Module):
    """What a quantizer makes of its raw codes (K, raw D), which are its parameter ``codebook``.

    An instance that a caller makes is a template, without weights; a quantizer takes ``sized`` from it. Every
    projection starts as the identity (or, between different numbers of channels, as an orthogonal matrix), so codes
    start where the raw ones do, whatever those are.

    ``settable`` tells whether a code can be put somewhere, which moving averages and revival need; ``learned`` whether
    a gradient reaches the codes, ``raw_learned`` whether it moves the raw ones, ``entangled`` whether codes can only be
    computed all together.
    """

    settable: bool = False
    learned: bool = True
    raw_learned: bool = True
    entangled: bool = False

    def __init__(self) -> None:
        super().__init__()

    def sized(self: C, dim: int) -> C:
        """A fresh one with weights, for codes of that many channels."""
        fresh: C = type(self)(**self._arguments)
        fresh.build(dim)
        return fresh

    def raw_dim(self, dim: int) -> int:
        """Channels of the raw codes."""
        return dim

    def build(self, dim: int) -> None:
        """Makes the weights other than the raw codes."""

    def table(self, raw: Tensor) -> Tensor:
        """All codes: (K, raw D) -> (K, D) in float32, differentiable where they are learned."""
        return raw.float()

    def lookup(self, raw: Tensor, indices: Tensor) -> Tensor:
        """The codes of indices: (...) -> (..., D) in float32."""
        return F.embedding(indices, self.table(raw))


class FreeCodebook(Codebook):
    """Codes that move each for itself: by gradient or as moving averages.

    Source: van den Oord et al., Neural Discrete Representation Learning (2017), arXiv:1711.00937, section 3.
    """

    settable = True


class FrozenCodebook(Codebook):
    """Codes that never move once they are set, from k-means, a file or a random draw.

    Only the encoder learns. With a table of features of a large model this is how a semantic codebook of hundreds of
    thousands of codes is kept from collapse.

    Source: Chiu et al., Self-supervised Learning with Random-projection Quantizer (2022), arXiv:2202.01855, section 3.1, for random codes.
    """

    learned = False
    raw_learned = False


class ProjectedCodebook(Codebook):
    """Frozen raw codes behind one learned linear map: a step of any code moves all of them, so none dies.

    Deviation: the map starts as the identity, not as a random matrix, so that codes can start at k-means centres or at
    a given table.

    Source: Zhu et al., Addressing Representation Collapse in Vector Quantized Models with One Linear Layer (2024),
    arXiv:2411.02038, section 4 (SimVQ).

    Args:
        dim: Channels of the raw codes; None takes the quantizer's, another number serves a table of, say, a language
            model's embeddings.
    """

    raw_learned = False

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        if dim is not None and dim < 1:
            raise ValueError(f"dim must be at least 1, it is {dim}")
        self.dim = dim

    def raw_dim(self, dim: int) -> int:
        """As given."""
        return dim if self.dim is None else self.dim

    def build(self, dim: int) -> None:
        """Makes the linear map."""
        self.projection = nn.Linear(self.raw_dim(dim), dim, bias=False)
        if self.raw_dim(dim) == dim:
            nn.init.eye_(self.projection.weight)
        else:
            nn.init.orthogonal_(self.projection.weight)

    def table(self, raw: Tensor) -> Tensor:
        """All raw codes, mapped."""
        return F.linear(raw.float(), self.projection.weight.float())

    def lookup(self, raw: Tensor, indices: Tensor) -> Tensor:
        """Maps the raw codes of the indices only, so that the backward pass is O(N) too."""
        return self.table(F.embedding(indices, raw))


class BridgeCodebook(Codebook):
    """Learned raw codes behind a small transformer over the table: compress groups of codes, process, recover.

    Groups of consecutive codes become one token each, tokens attend to the others of their chunk, and what comes out is
    added to the raw codes. Chunks are computed one at a time and again in the backward pass, so memory is O(K D).

    Source: Chang et al., Scalable Training for Vector-Quantized Networks with 100% Codebook Utilization (2025),
    arXiv:2509.10140 (VQBridge). Deviations: attention within chunks; a residual with an output that starts at zero,
    so that the codes start at the raw ones; layer sizes are ours.

    Args:
        group: Codes per token.
        width: Channels of a token.
        depth: Transformer blocks.
        num_heads: Attention heads; must divide ``width``.
        chunk: Tokens that attend to each other.

    Raises:
        ValueError: a number below 1, or heads that do not divide the width.
    """

    entangled = True

    def __init__(
        self, group: int = 16, width: int = 128, depth: int = 1, num_heads: int = 4, chunk: int = 1024
    ) -> None:
        super().__init__()
        if min(group, width, depth, num_heads, chunk) < 1 or width % num_heads:
            raise ValueError(
                f"group, width, depth, num_heads and chunk must be at least 1 and num_heads divide width, they are "
                f"{group}, {width}, {depth}, {num_heads}, {chunk}"
            )
        self.group, self.width, self.depth, self.num_heads, self.chunk = group, width, depth, num_heads, chunk

    def build(self, dim: int) -> None:
        """Makes the transformer."""
        self.compress = nn.Linear(self.group * dim, self.width)
        self.blocks = nn.ModuleList(_Block(self.width, self.num_heads) for _ in range(self.depth))
        self.recover = nn.Linear(self.width, self.group * dim)
        nn.init.zeros_(self.recover.weight)
        nn.init.zeros_(self.recover.bias)

    def table(self, raw: Tensor) -> Tensor:
        """All raw codes plus what the transformer adds to each."""
        raw = raw.float()
        size, dim = raw.shape
        padded = F.pad(raw, (0, 0, 0, -size % self.group)).reshape(-1, self.group * dim)
        parts = []
        for chunk in torch.split(padded, self.chunk):
            again = torch.is_grad_enabled() and not torch.compiler.is_compiling()
            parts.append(
                checkpoint(self._bridge, chunk, use_reentrant=False) if again else self._bridge(chunk)
            )
        added = torch.cat(parts).reshape(-1, dim)[:size]
        return raw + added

    def _bridge(self, tokens: Tensor) -> Tensor:
        tokens = self.compress(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        recovered: Tensor = self.recover(tokens)
        return recovered


class _Block(nn.Module):
    """Attention and a perceptron over tokens (T, width), each after a norm and beside a skip."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """(T, width) -> (T, width)."""
        length, width = tokens.shape
        query, key, value = (
            part.reshape(1, length, self.num_heads, -1).transpose(1, 2)
            for part in self.qkv(self.norm_attention(tokens)).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(length, width)
        tokens = tokens + self.out(mixed)
        result: Tensor = tokens + self.mlp(self.norm_mlp(tokens))
        return result


class MovingAverage(Recorded):
    """Codes as moving averages of the latents that chose them, instead of a gradient.

    Source: Razavi et al., Generating Diverse High-Fidelity Images with VQ-VAE-2 (2019), arXiv:1906.00446, section 2.1.

    Args:
        decay: In [0, 1).
    """

    def __init__(self, decay: float = 0.99) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), it is {decay}")
        self.decay = decay


def read_table(path: str | Path) -> Tensor:
    """The codes (K, D) in a file: the array of an ``.npy``, or the only tensor of a ``.safetensors``.

    Raises:
        ValueError: no such file, another kind of file, or no single matrix of finite floating-point numbers in it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"init is {str(path)!r}: no such file, and none of {', '.join(STARTS)}")
    if path.suffix == ".npy":
        import numpy

        table = torch.from_numpy(numpy.load(path, allow_pickle=False))
    elif path.suffix == ".safetensors":
        from safetensors.torch import load_file

        tensors = load_file(path)
        if len(tensors) != 1:
            raise ValueError(f"{path} holds {len(tensors)} tensors: save the codes alone")
        (table,) = tensors.values()
    else:
        raise ValueError(f"{path} is no table of codes: give an .npy or .safetensors file")
    if table.ndim != 2 or not table.is_floating_point() or not bool(table.isfinite().all()):
        raise ValueError(f"{path} holds no matrix (K, D) of finite floating-point numbers")
    return table.float()
