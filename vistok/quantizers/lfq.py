"""Lookup-free quantization."""

from __future__ import annotations

from vistok.quantizers.bits import Bits, Entropy, index_sizes


class LFQ(Bits):
    """Takes the sign of every channel; the codebook is {-1, 1}^d and is never stored.

    Losses ``commitment``, ``sample_entropy`` and ``batch_entropy``, unweighted; the last is the negated entropy of the
    mean soft code, the same at any number of processes. The two entropies exist in training mode. The first channel is
    the most significant bit; a latent of 0 or less gives bit 0.

    Source: Yu et al., Language Model Beats Diffusion: Tokenizer is Key to Visual Generation (2023), arXiv:2310.05737,
    section 3.1. The gradient passes the sign unchanged.

    Args:
        num_bits: d, at least 1; above 62 only as bit labels.
        entropy: The batch term: ``exact`` over all 2^d codes (at most 24 bits), ``factorised`` over single bits,
            ``grouped`` over groups of bits, or ``none`` for no entropy terms.
        group_size: Bits per group where ``entropy`` is ``grouped``.
        inverse_temperature: The soft choice is softmax of 2 * inverse_temperature * <latent, code>.
        bit_labels: Gives d indices in [0, 2) per position instead of one in [0, 2^d).

    Shapes:
        latent (B, ..., d) -> quantized (B, ..., d) of -1 and 1, indices (B, ...) in [0, 2^d), or (B, ..., d) bit labels.

    Raises:
        ValueError: more than 62 bits in one index, an entropy over more than 2^24 codes; latents that are not finite.
    """

    def __init__(
        self,
        num_bits: int,
        entropy: Entropy = "exact",
        group_size: int = 9,
        inverse_temperature: float = 100.0,
        bit_labels: bool = False,
    ) -> None:
        super().__init__(
            index_sizes(num_bits, bit_labels), 1.0, False, entropy, group_size, inverse_temperature
        )

    @classmethod
    def tiny(cls) -> LFQ:
        """4 bits, softer than usual."""
        return cls(4, inverse_temperature=1.0)
