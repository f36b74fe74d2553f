"""A codebook that is read by probabilities instead of an index."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vistok.recorded import Recorded


class SoftCodes(Recorded, nn.Module):
    """The mean of the codes of a table, weighed by the softmax of their logits; so gradients reach the logits.

    Source: Yu et al., TiTok (2024), arXiv:2406.07550, section 3.3: the second stage reads a proxy's codebook this way.

    Args:
        codebook_size: K, the number of logits.
        dim: Channels of a code.

    Shapes:
        logits (..., K) -> (..., dim).
    """

    def __init__(self, codebook_size: int, dim: int) -> None:
        super().__init__()
        self.dim_in, self.dim_out = codebook_size, dim
        self.codebook = nn.Parameter(torch.empty(codebook_size, dim))
        nn.init.normal_(self.codebook, std=dim**-0.5)

    def forward(self, logits: Tensor) -> Tensor:
        """Reads the table."""
        return logits.softmax(dim=-1) @ self.codebook.to(logits.dtype)
