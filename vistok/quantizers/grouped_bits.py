"""Group-wise lookup-free quantization."""

from __future__ import annotations

from vistok.quantizers.bits import Bits
from vistok.quantizers.index_codec import MAX_BITS


class GroupedBits(Bits):
    """Takes the sign of every channel and numbers groups of them: S indices of g bits each.

    Losses ``commitment``, ``sample_entropy`` and ``batch_entropy`` as ``LFQ`` has them; the batch term sums the exact
    entropies of the groups, so its memory is S 2^g instead of 2^(S g).

    Source: Zhuang et al., WeTok (2025), arXiv:2508.05599, section 3 (group-wise quantization).

    Args:
        num_groups: S, at least 1.
        group_size: g, bits per group, at most 62; at most 24 with an entropy.
        entropy: Whether the two entropies are computed.
        inverse_temperature: The soft choice is softmax of 2 * inverse_temperature * <latent, code>.

    Shapes:
        latent (B, ..., S g) -> quantized (B, ..., S g) of -1 and 1, indices (B, ..., S) in [0, 2^g); (B, ...) if S = 1.

    Raises:
        ValueError: an argument out of its range; latents that are not finite.
    """

    def __init__(
        self, num_groups: int, group_size: int, entropy: bool = True, inverse_temperature: float = 100.0
    ) -> None:
        if num_groups < 1 or not 1 <= group_size <= MAX_BITS:
            raise ValueError(
                f"num_groups must be at least 1 and group_size in [1, 62], they are {num_groups} and {group_size}"
            )
        sizes = (group_size,) * num_groups
        super().__init__(sizes, 1.0, False, "grouped" if entropy else "none", group_size, inverse_temperature)

    @classmethod
    def tiny(cls) -> GroupedBits:
        """2 groups of 3 bits, softer than usual."""
        return cls(2, 3, inverse_temperature=1.0)
