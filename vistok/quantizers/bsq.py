"""Binary spherical quantization."""

from __future__ import annotations

from vistok.quantizers.bits import Bits, Entropy, index_sizes


class BSQ(Bits):
    """Takes the sign of every channel of a latent on the unit sphere; codes are the corners of the cube within it.

    The distance to the code is bounded, so the commitment needs little weight or none. Losses are those of ``LFQ``, on
    the scaled latents.

    Source: Zhao et al., Image and Video Tokenization with Binary Spherical Quantization (2024), arXiv:2406.07548,
    section 4. The soft choice takes logits 2 * inverse_temperature * <latent, code>, twice the paper's.

    Args:
        num_bits: d, at least 1; above 62 only as bit labels.
        entropy: The batch term: ``factorised`` over single bits (the paper's), ``grouped`` over groups of bits,
            ``exact`` over all 2^d codes (at most 24 bits), or ``none`` for no entropy terms.
        group_size: Bits per group where ``entropy`` is ``grouped``.
        inverse_temperature: Of the soft choice, above 0.
        bit_labels: Gives d indices in [0, 2) per position instead of one in [0, 2^d).

    Shapes:
        latent (B, ..., d) -> quantized (B, ..., d) of +-1/sqrt(d), indices (B, ...) in [0, 2^d), or (B, ..., d) labels.

    Raises:
        ValueError: more than 62 bits in one index, an entropy over more than 2^24 codes; latents that are not finite.
    """

    def __init__(
        self,
        num_bits: int,
        entropy: Entropy = "factorised",
        group_size: int = 9,
        inverse_temperature: float = 100.0,
        bit_labels: bool = False,
    ) -> None:
        sizes = index_sizes(num_bits, bit_labels)
        super().__init__(sizes, num_bits**-0.5, True, entropy, group_size, inverse_temperature)

    @classmethod
    def tiny(cls) -> BSQ:
        """4 bits, softer than usual."""
        return cls(4, inverse_temperature=1.0)
