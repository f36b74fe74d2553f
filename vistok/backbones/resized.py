"""An encoder on images of another size, so that its token grid is that of a decoder with another patch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from vistok.backbones.base import Encoder, require_multiple


class ResizedEncoder(Encoder):
    """Resizes images so that an encoder of any factor gives the token grid of another: 256 pixels at factor 16 are 224 at 14.

    Source: Zheng et al., Diffusion Transformers with Representation Autoencoders (2025), arXiv:2510.11690, section 3.1
    (DINOv2's patches are 14 pixels wide, the decoder's 16). The resizing is bicubic, without antialiasing.

    Args:
        encoder: Any encoder with a grid in two dimensions.
        factor: What the images are a multiple of; the encoder sees H / factor * encoder.factor pixels.

    Shapes:
        image (B, 3, H, W) -> latent (B, H / factor, W / factor, encoder.dim).

    Raises:
        ImageError: H or W not a multiple of the factor.
    """

    def __init__(self, encoder: Encoder, factor: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.dim, self.factor = encoder.dim, factor

    def forward(self, image: Tensor) -> Tensor:
        """Resizes, then encodes."""
        require_multiple(image, self.factor)
        if self.factor != self.encoder.factor:
            size = [side // self.factor * self.encoder.factor for side in image.shape[-2:]]
            # in float32: not every device has bicubic in half precision
            image = F.interpolate(image.float(), size=size, mode="bicubic").to(image.dtype)
        return self.encoder(image)  # type: ignore[no-any-return]
