"""The smallest text tower."""

import torch
from torch import Tensor, nn


class Letters(nn.Module):
    """The mean of a learned vector for each byte of a text."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.vectors = nn.EmbeddingBag(256, dim, mode="mean")

    def forward(self, texts: list[str]) -> Tensor:
        """B texts to (B, dim)."""
        bytes_of = [torch.tensor(list(text.encode())) for text in texts]
        starts = torch.tensor([0, *(len(part) for part in bytes_of[:-1])]).cumsum(0)
        vectors: Tensor = self.vectors(torch.cat(bytes_of), starts)
        return vectors
