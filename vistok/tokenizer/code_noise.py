"""Wrong codes now and then, so that a decoder forgives those that a generative model gets wrong."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vistok.quantizers import MultiScale, Quantizer
from vistok.recorded import Recorded


class CodeNoise(Recorded, nn.Module):
    """Replaces codes by others drawn evenly, and drops all codes of some images; in training alone.

    Source: Huang et al., ILLUME+ (2025), arXiv:2504.01934, section 3.1 (a tenth of the pixel codes). Dropping a stream is
    ours.

    Args:
        replace: Share of positions whose code becomes another, in [0, 1].
        drop: Share of images whose vectors of this stream become 0, in [0, 1].

    Shapes:
        quantized (B, ..., D) -> (B, ..., D).

    Raises:
        ValueError: a share outside [0, 1].
    """

    def __init__(self, replace: float = 0.1, drop: float = 0.0) -> None:
        super().__init__()
        if not (0 <= replace <= 1 and 0 <= drop <= 1):
            raise ValueError(f"replace and drop must be in [0, 1], they are {replace} and {drop}")
        self.replace, self.drop = replace, drop

    def check(self, quantizer: Quantizer) -> None:
        """Refuses a quantizer that has no code of each position.

        Raises:
            ValueError: a continuous or multi-scale quantizer with codes to replace.
        """
        if self.replace and (quantizer.codebook_size is None or isinstance(quantizer, MultiScale)):
            raise ValueError(
                f"{type(quantizer).__name__} has no single code at a position to replace: set replace to 0"
            )

    def forward(self, quantized: Tensor, quantizer: Quantizer) -> Tensor:
        """Adds the noise."""
        # every draw has the images first, so that any number of processes draws what one does
        if self.replace and quantizer.codebook_size is not None:
            places = quantized.shape[:-1]
            groups = () if quantizer.num_groups == 1 else (quantizer.num_groups,)
            drawn = torch.rand((*places, *groups), device=quantized.device, dtype=torch.float64)
            indices = (drawn * quantizer.codebook_size).long().clamp(max=quantizer.codebook_size - 1)
            with torch.no_grad():
                others = quantizer.decode(indices).to(quantized.dtype)
            chosen = torch.rand(places, device=quantized.device) < self.replace
            quantized = torch.where(chosen[..., None], others, quantized)
        if self.drop:
            kept = torch.rand(len(quantized), device=quantized.device) >= self.drop
            quantized = quantized * kept.view(-1, *[1] * (quantized.ndim - 1))
        return quantized
