"""What an encoder and a decoder are to the rest of vistok."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from vistok.errors import ImageError
from vistok.recorded import Recorded


class Encoder(Recorded, nn.Module):
    """Images (B, 3, H, W) in [-1, 1] to latents (B, h, w, dim), channels last, with h = H / factor."""

    dim: int
    factor: int

    def forward(self, image: Tensor) -> Tensor:
        """Encodes.

        Shapes:
            image (B, 3, H, W) -> latent (B, H / factor, W / factor, dim).
        """
        raise NotImplementedError


class Decoder(Recorded, nn.Module):
    """Vectors (B, h, w, dim) to images (B, 3, h * factor, w * factor); values near [-1, 1], not clamped.

    A ``modulated`` one also takes the quantized vectors as the quantizer gave them, before any projection:
    ``forward(quantized, code)`` with code (B, h, w, code_dim).
    """

    dim: int
    factor: int
    modulated: ClassVar[bool] = False

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight that the adaptive GAN weight compares gradients at."""
        raise NotImplementedError

    def forward(self, quantized: Tensor) -> Tensor:
        """Decodes.

        Shapes:
            quantized (B, h, w, dim) -> image (B, 3, h * factor, w * factor).
        """
        raise NotImplementedError


class FeatureHead(Recorded, nn.Module):
    """Vectors (B, h, w, dim) to features (B, h', w', dim_out) in the space of a teacher."""

    dim: int
    dim_out: int

    def forward(self, quantized: Tensor) -> Tensor:
        """Predicts features.

        Shapes:
            quantized (B, h, w, dim) -> features (B, h', w', dim_out).
        """
        raise NotImplementedError


def require_multiple(image: Tensor, factor: int) -> None:
    """Checks that the sides of an image (B, 3, H, W) are multiples of a factor.

    Raises:
        ImageError: H or W is not.
    """
    height, width = image.shape[-2:]
    if height % factor or width % factor:
        raise ImageError(
            f"an image of {width} x {height} pixels cannot be encoded: its sides must be multiples of {factor}; crop or resize it"
        )
