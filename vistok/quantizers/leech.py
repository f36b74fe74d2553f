"""The shortest vectors of the Leech lattice as a codebook."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from vistok.quantizers.base import Quantizer, QuantizerOutput, as_latent, check_indices
from vistok.quantizers.estimators import straight_through
from vistok.spec import StreamSpec
from vistok_kernels import nearest_code

_DIM, _SIZE = 24, 196_560


class Leech(Quantizer):
    """Takes the nearest direction among the 196,560 shortest vectors of the Leech lattice; nothing is learned.

    Latents are scaled to length 1, and so are the codes. They are spread over the sphere as evenly as anything known
    in 24 dimensions, so there is no entropy to push and no loss to weigh. The index counts the vectors in
    lexicographic order of their integer coordinates. The table, 19 MB, is made when the quantizer is built and is not
    saved with it.

    Source: Zhao et al., Spherical Leech Quantization for Visual Tokenization and Generation (2025), arXiv:2512.14697;
    the vectors from Conway & Sloane, Sphere Packings, Lattices and Groups (1999), chapter 4, section 11.

    Shapes:
        latent (B, ..., 24) -> quantized (B, ..., 24) of length 1, indices (B, ...) in [0, 196560).

    Raises:
        ValueError: latents that are not finite.
    """

    codebook: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.dim = _DIM
        self.codebook_size: int = _SIZE
        table = torch.from_numpy(minimal_vectors().astype(np.float32)) / 32**0.5
        self.register_buffer("codebook", table, persistent=False)

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Scales to length 1 and finds the nearest code."""
        latent = as_latent(latent, self.dim)
        with torch.autocast(latent.device.type, enabled=False):
            latent = F.normalize(latent, dim=-1)
            codebook = self.codebook.float()
            indices = nearest_code(latent.reshape(-1, self.dim), codebook, "cosine").reshape(
                latent.shape[:-1]
            )
            return QuantizerOutput(straight_through(latent, F.embedding(indices, codebook)), indices)

    def decode(self, indices: Tensor) -> Tensor:
        """Looks the codes up: (B, ...) -> (B, ..., 24)."""
        return F.embedding(check_indices(indices, self.codebook_size), self.codebook.float())

    def stream(self) -> StreamSpec:
        """Adds the metric to the stream's description."""
        return StreamSpec("pixel", "pixel", "Leech", self.codebook_size, self.dim, metric="cosine")

    @classmethod
    def tiny(cls) -> Leech:
        """There is one size."""
        return cls()


@lru_cache(maxsize=1)
def minimal_vectors() -> npt.NDArray[np.int8]:
    """The shortest vectors, times the square root of 8: integers (196560, 24) of squared length 32, sorted.

    They are 1,104 of shape (+-4, +-4, 0...), 97,152 of shape (+-2 on an octad, 0...) with an even number of minus
    signs, and 98,304 of shape (-+3, +-1...) with the upper signs on a word of the Golay code.
    """
    words = golay_code()
    parts = []
    for first, second in combinations(range(_DIM), 2):
        pairs = np.zeros((4, _DIM), np.int8)
        pairs[:, first], pairs[:, second] = [4, 4, -4, -4], [4, -4, 4, -4]
        parts.append(pairs)
    patterns = np.array([bits for bits in np.ndindex(*[2] * 8) if sum(bits) % 2 == 0])
    for octad in words[words.sum(axis=1) == 8]:
        twos = np.zeros((len(patterns), _DIM), np.int8)
        twos[:, np.flatnonzero(octad)] = 2 - 4 * patterns
        parts.append(twos)
    for position in range(_DIM):
        ones = np.ones(_DIM, np.int8)
        ones[position] = -3
        parts.append(ones * (1 - 2 * words))
    vectors = np.concatenate(parts).astype(np.int8)
    return vectors[np.lexsort(vectors.T[::-1])]


def golay_code() -> npt.NDArray[np.int8]:
    """The 4,096 words of the extended binary Golay code: the quadratic-residue code mod 23 and a parity bit, (4096, 24)."""
    # x^11 + x^9 + x^7 + x^6 + x^5 + x + 1 generates the cyclic code of length 23
    generator = np.zeros((12, _DIM), np.int8)
    for row in range(12):
        generator[row, [row + power for power in (0, 1, 5, 6, 7, 9, 11)]] = 1
    generator[:, 23] = generator.sum(axis=1) % 2
    choices = np.arange(1 << 12)[:, None] >> np.arange(12) & 1
    words: npt.NDArray[np.int8] = (choices @ generator % 2).astype(np.int8)
    return words
