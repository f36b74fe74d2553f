"""The head that predicts a teacher's features from quantized vectors."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vistok.backbones.base import FeatureHead
from vistok.backbones.transformer import Transformer
from vistok.errors import ImageError


class FeatureDecoder(FeatureHead):
    """A small transformer on the token grid, then a linear layer into the teacher's space.

    ``depth=0`` leaves an MLP. ``pool`` and ``upsample`` carry the token grid to the teacher's: a tokenizer of factor 8
    meets a teacher of factor 32 with ``pool=4``, one of factor 16 meets a teacher of factor 8 with ``upsample=2``.

    Source: the decoder of VQ-KD: Peng et al., BEiT v2 (2022), arXiv:2208.06366, section 2.2. Deviations: rotary
    positions; the change of grid.

    Args:
        dim: Channels of the quantized vectors.
        dim_out: Channels of the teacher's features.
        width: Channels of the transformer.
        depth: Transformer blocks.
        num_heads: Attention heads.
        pool: Side of the squares of tokens that are averaged into one feature.
        upsample: Side of the square of features that each token becomes.

    Shapes:
        quantized (B, h, w, dim) -> features (B, h * upsample / pool, w * upsample / pool, dim_out).

    Raises:
        ValueError: a width that the heads do not divide.
        ImageError: a token grid that ``pool`` does not divide.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        width: int = 256,
        depth: int = 2,
        num_heads: int = 4,
        pool: int = 1,
        upsample: int = 1,
    ) -> None:
        super().__init__()
        self.dim, self.dim_out, self.pool, self.upsample = dim, dim_out, pool, upsample
        self.project_in = nn.Linear(dim, width)
        self.body: nn.Module = Transformer(width, depth, num_heads) if depth else nn.GELU()
        self.project_out = nn.Linear(width, dim_out * upsample**2)

    def forward(self, quantized: Tensor) -> Tensor:
        """Predicts."""
        x = self.body(self.project_in(quantized))
        if self.pool > 1:
            height, width = x.shape[1:3]
            if height % self.pool or width % self.pool:
                raise ImageError(
                    f"a token grid of {height} x {width} cannot be pooled by {self.pool} to the teacher's: "
                    f"train on images whose grid is a multiple of {self.pool}"
                )
            x = F.avg_pool2d(x.permute(0, 3, 1, 2), self.pool).permute(0, 2, 3, 1)
        features = self.project_out(x)
        if self.upsample > 1:
            features = (
                F.pixel_shuffle(features.permute(0, 3, 1, 2), self.upsample).permute(0, 2, 3, 1).contiguous()
            )
        return features  # type: ignore[no-any-return]
