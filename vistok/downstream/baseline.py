"""What a token costs without a model: the unigram distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from vistok.downstream.vocabulary import Vocabulary


def frequencies(tokens: Tensor, codebook_size: int) -> Tensor:
    """Add-one smoothed share of each code among tokens of any shape: (K,), sums to 1."""
    counts = torch.bincount(tokens.flatten(), minlength=codebook_size).double() + 1
    return counts / counts.sum()


def unigram_bits(train: Tensor, evaluated: Tensor, codebook_size: int) -> float:
    """Bits per token that the training tokens' frequencies (add-one smoothed) cost on the evaluated tokens.

    Works for codebooks that are too large to count densely.
    """
    values, counts = torch.unique(train.flatten(), return_counts=True)
    wanted = evaluated.flatten().contiguous()
    places = torch.searchsorted(values, wanted).clamp(max=len(values) - 1)
    seen = torch.where(values[places] == wanted, counts[places], 0)
    shares = (seen.double() + 1) / (train.numel() + codebook_size)
    return -float(shares.log2().mean())


def unigram_bits_per_image(train: Tensor, evaluated: Tensor, vocabulary: Vocabulary) -> float:
    """Bits per image of the unigram distributions of each of the S groups, the cheaper of two ways to count.

    Whole indices are counted, and the digits that large codebooks are split into: with few images and many codes the
    first costs about log2 K, and a baseline should not be easy.

    Shapes:
        train (n, N, S), evaluated (m, N, S).
    """
    num_tokens, groups = evaluated.shape[1], range(vocabulary.num_groups)
    whole = sum(unigram_bits(train[..., s], evaluated[..., s], vocabulary.codebook_size) for s in groups)
    if len(vocabulary.digits) == 1:
        return num_tokens * whole
    parts, held_out = vocabulary.split(train), vocabulary.split(evaluated)
    split = sum(
        unigram_bits(parts[..., place], held_out[..., place], size)
        for place, size in enumerate(vocabulary.sizes)
    )
    return num_tokens * min(whole, split)


def entropy_bits(tokens: Tensor, codebook_size: int) -> float:
    """Entropy of the tokens' own frequencies, unsmoothed, in bits: what the best fixed distribution would cost."""
    share = torch.bincount(tokens.flatten(), minlength=codebook_size).double() / tokens.numel()
    share = share[share > 0]
    return -float((share * share.log2()).sum())
