"""A tokenizer's codes as rows, inputs and outputs of a language model, starting from the vectors of the codebook."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from vistok.errors import LayoutError
from vistok.layouts.checks import check_values
from vistok.layouts.layout import Layout
from vistok.layouts.transformer import INIT_STD
from vistok.spec import TokenizerSpec

MOST_CODES = 1 << 22


class Embeds(Protocol):
    """What a tokenizer offers here."""

    @property
    def spec(self) -> TokenizerSpec:
        """What it is."""
        ...

    def embed(self, tokens: Tensor, *, depthwise: bool = False) -> Tensor:
        """Post-quantization vectors of indices (B, N, S): (B, N, D), or (B, N, S, d) depthwise."""
        ...


def codebook_vectors(tokenizer: Embeds) -> Tensor:
    """The post-quantization vector of every code, by group.

    Shapes:
        -> (S, K, d).

    Raises:
        LayoutError: a continuous tokenizer, or more codes than can be listed (2^22).
    """
    stream = tokenizer.spec.main
    size = stream.codebook_size
    if size is None or size > MOST_CODES:
        told = "is continuous" if size is None else f"has {size} codes, too many to list"
        raise LayoutError(f"{tokenizer.spec.name} {told}: map its vectors with TokenEmbedder.project instead")
    indices = torch.arange(size).view(1, size, 1).expand(1, size, stream.num_groups)
    return tokenizer.embed(indices, depthwise=True)[0].transpose(0, 1).float().contiguous()


def projected(vectors: Tensor, width: int, seed: int = 0) -> Tensor:
    """Vectors in another number of channels by a fixed map that keeps their angles, or nearly where there are fewer.

    Shapes:
        vectors (..., K, d) -> (..., K, width), of mean 0 over K and mean square 1.
    """
    centred = vectors.float() - vectors.float().mean(dim=-2, keepdim=True)
    mapped = centred @ orthonormal(vectors.shape[-1], width, seed).to(vectors.device)
    return mapped / mapped.square().mean(dim=(-2, -1), keepdim=True).sqrt().clamp_min(1e-8)


def grown_rows(rows: Tensor, layout: Layout, vectors: Tensor, seed: int = 0) -> Tensor:
    """The rows of a language model's embedding or head for a layout's whole vocabulary.

    Rows of the text vocabulary stay. Added codes get their vectors, projected, with the mean and the spread of the text's
    rows, so that they are neither louder than words nor equal to each other; where groups share their ids, the mean over
    groups. Other added tokens get the mean.

    Args:
        rows: (V0, C) of the text vocabulary, V0 at least ``layout.text_size``; further rows are replaced.
        layout: Of one stream.
        vectors: (S, K, d) of ``codebook_vectors``.
        seed: Of the projection.

    Shapes:
        -> (V, C), V = ``layout.vocabulary_size``.

    Raises:
        LayoutError: fewer rows than the text vocabulary has, or vectors of other codes.
    """
    if rows.ndim != 2 or not rows.is_floating_point():
        raise LayoutError(f"rows are floats (V0, C), these are {rows.dtype} {tuple(rows.shape)}")
    text, width = layout.text_size, rows.shape[1]
    if len(rows) < text:
        raise LayoutError(f"the text vocabulary has {text} ids, the embedding {len(rows)} rows")
    known = rows[:text].detach().float()
    mean = known.mean(0) if text else torch.zeros(width)
    std = float((known - mean).square().mean().sqrt()) if text else INIT_STD
    grown = mean.expand(layout.vocabulary_size, width).clone()
    grown[:text] = known
    codes = layout.codes()
    ids = codes.all_ids()
    if vectors.shape[:2] != ids.shape:
        raise LayoutError(
            f"vectors are (S, K, d), for ids of {tuple(ids.shape)} they are {tuple(vectors.shape)}"
        )
    new = projected(vectors, width, seed).to(mean.device)
    # every group's ids once: groups that share a range meet in their mean
    total = torch.zeros_like(grown).index_add_(0, ids.flatten(), new.flatten(0, 1))
    count = torch.zeros(len(grown)).index_add_(0, ids.flatten(), torch.ones(ids.numel()))
    added = (count > 0) & (torch.arange(len(grown)) >= text)
    grown[added] += std * total[added] / count[added].sqrt().unsqueeze(1)
    return grown.to(rows.dtype)


class TokenEmbedder(nn.Module):
    """Indices to the input of a language model: the vectors of their codes, mapped to its width and summed over groups.

    Source: the depthwise sums are those of Lee et al., RQ-Transformer (2022), arXiv:2203.01941, section 3.2; embedding
    by the tokenizer's own vectors: Ma et al., UniTok (2025), arXiv:2502.20321.

    Args:
        vectors: (S, K, d) of ``codebook_vectors``.
        width: C of the language model.
        shared: One map for all groups, which residual stages and scales want; product groups want one each.
        learned: Whether the vectors learn; the map does in any case.

    Shapes:
        indices (B, N, S) in [0, K) -> (B, N, C), of mean square 0.02^2 at the start.
    """

    def __init__(self, vectors: Tensor, width: int, shared: bool = True, learned: bool = False) -> None:
        super().__init__()
        if vectors.ndim != 3 or not vectors.numel() or width < 1:
            raise LayoutError(
                f"vectors are (S, K, d), they are {tuple(vectors.shape)}, and width {width} must be at least 1"
            )
        groups, _, dim = vectors.shape
        self.vectors = nn.Parameter(vectors.detach().float().clone(), requires_grad=learned)
        spread = float(self.vectors.detach().var(dim=1, unbiased=False).mean().sqrt().clamp_min(1e-8))
        scale = INIT_STD / spread * (width / min(dim, width)) ** 0.5 / groups**0.5
        maps = [orthonormal(dim, width, seed) * scale for seed in range(1 if shared else groups)]
        self.maps = nn.Parameter(torch.stack(maps))

    def forward(self, indices: Tensor) -> Tensor:
        """Sums over groups."""
        return self.by_group(indices).sum(dim=2)

    def depthwise(self, indices: Tensor) -> Tensor:
        """Sums up to each group, what a head that predicts one group after the other reads: (B, N, S) -> (B, N, S, C)."""
        return self.by_group(indices).cumsum(dim=2)

    def project(self, features: Tensor) -> Tensor:
        """Vectors that are no codes: latents, or sums of scales (``embed(cumulative=True)``).

        Shapes:
            (B, N, D) -> (B, N, C); D = d where groups share the map, S d otherwise.
        """
        dim = self.vectors.shape[-1] * len(self.maps)
        if features.ndim < 1 or features.shape[-1] != dim:
            raise LayoutError(f"features are (B, N, {dim}), they are {tuple(features.shape)}")
        if len(self.maps) == 1:
            return features @ self.maps[0]
        pieces = features.reshape(*features.shape[:-1], len(self.maps), -1)
        return torch.einsum("...sd,sdc->...c", pieces, self.maps)

    def table(self) -> Tensor:
        """(S, K, C): every code's part of the sum."""
        return self.vectors @ self.maps

    def by_group(self, indices: Tensor) -> Tensor:
        """Embeddings before they are summed: (B, N, S) -> (B, N, S, C)."""
        groups, size, _ = self.vectors.shape
        check_values(indices, (None, None, groups), False, "what is embedded")
        # on a GPU it would wait for the device at every step
        if (
            not indices.is_cuda
            and indices.numel()
            and not 0 <= int(indices.min()) <= int(indices.max()) < size
        ):
            raise LayoutError(
                f"indices lie in [{int(indices.min())}, {int(indices.max())}], outside [0, {size}): were they of another tokenizer?"
            )
        chosen = self.vectors[torch.arange(len(self.vectors), device=indices.device), indices]
        return torch.einsum("bnsd,sdc->bnsc", chosen, self.maps.expand(len(self.vectors), -1, -1))


def orthonormal(rows: int, columns: int, seed: int) -> Tensor:
    """A map (rows, columns) that keeps lengths, of the larger side's random directions."""
    generator = torch.Generator().manual_seed(seed)
    most, least = max(rows, columns), min(rows, columns)
    basis: Tensor = torch.linalg.qr(torch.randn(most, least, generator=generator))[0]
    return basis if rows >= columns else basis.T.contiguous()
