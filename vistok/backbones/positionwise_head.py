"""A head that predicts features at each position from that position's vector alone."""

from __future__ import annotations

from torch import Tensor, nn

from vistok.backbones.base import FeatureHead


class PositionwiseHead(FeatureHead):
    """A linear map from vectors into a teacher's space, or an MLP of three layers.

    Linear and without a bias it is the projection that VA-VAE aligns its latents through; with ``hidden`` that of REPA,
    which SoftVQ-VAE uses.

    Source: Yao et al., Reconstruction vs. Generation (2025), arXiv:2501.01423, section 3.2; Yu et al., Representation
    Alignment for Generation (2024), arXiv:2410.06940, section 3.2.

    Args:
        dim: Channels of the vectors.
        dim_out: Channels of the features.
        hidden: Channels between the layers; 0 leaves one linear map.
        sequence: Vectors come as a sequence, not on a grid.

    Shapes:
        quantized (B, h, w, dim) or (B, N, dim) -> features (B, h, w, dim_out) or (B, N, dim_out).

    Raises:
        ValueError: a negative number of hidden channels.
    """

    def __init__(self, dim: int, dim_out: int, hidden: int = 0, sequence: bool = False) -> None:
        super().__init__()
        if hidden < 0:
            raise ValueError(f"hidden is {hidden}, it must be at least 0")
        self.dim, self.dim_out = dim, dim_out
        self.topology = "1d" if sequence else "2d"
        self.layers: nn.Module = nn.Linear(dim, dim_out, bias=False)
        if hidden:
            self.layers = nn.Sequential(
                nn.Linear(dim, hidden),
                nn.SiLU(),
                nn.Linear(hidden, hidden),
                nn.SiLU(),
                nn.Linear(hidden, dim_out),
            )

    def forward(self, quantized: Tensor) -> Tensor:
        """Predicts."""
        return self.layers(quantized)  # type: ignore[no-any-return]
