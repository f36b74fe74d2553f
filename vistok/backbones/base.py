"""What an encoder and a decoder are to the rest of vistok."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from vistok.errors import ImageError
from vistok.recorded import Recorded

Topology = Literal["2d", "1d", "ragged"]
Order = Literal["raster", "causal", "reversed"]


@dataclass(frozen=True)
class EncoderOutput:
    """What an encoder makes of images.

    Args:
        latent: (B, h, w, dim) on a grid, (B, N, dim) otherwise.
        lengths: (B,) int64 latents per image where they vary; what lies beyond is 0 and no latent.
        losses: Unweighted scalars by name; the recipe weighs them.
    """

    latent: Tensor
    lengths: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)


class Encoder(Recorded, nn.Module):
    """Images (B, 3, H, W) in [-1, 1] to latents, channels last.

    They lie on a grid, (B, h, w, dim) with h = H / factor, unless ``topology`` says otherwise: ``1d`` gives a sequence
    (B, num_tokens, dim) whatever the size of the image, ``ragged`` one of a length that varies from image to image. There
    ``factor`` is that of the features below.

    Args:
        dim: Channels of a latent.
        factor: Downsampling factor H / h.
        topology: How latents lie.
        num_tokens: N of a sequence, the longest one where it varies; 0 where it follows from the image.
        order: Order of a sequence: ``causal`` if a latent depends on none after it, ``reversed`` if on none before it.
        pools: Poolings of the grid that ``latents`` offers, the default first; each is a side in grid points.
        loss_names: Names of the losses that ``latents`` gives.
        multiple_of: What the sides of an image must be multiples of, in pixels; the factor unless a subclass says otherwise.
    """

    dim: int
    factor: int
    topology: Topology = "2d"
    num_tokens: int = 0
    order: Order = "raster"
    pools: tuple[int, ...] = (1,)
    loss_names: tuple[str, ...] = ()

    @property
    def multiple_of(self) -> int:
        """The factor."""
        return self.factor

    def forward(self, image: Tensor) -> Tensor:
        """Encodes.

        Shapes:
            image (B, 3, H, W) -> latent (B, H / factor, W / factor, dim), or (B, N, dim).
        """
        raise NotImplementedError

    def latents(self, image: Tensor, pool: int | None = None) -> EncoderOutput:
        """Encodes, with all that there is to say of the latents; what a tokenizer calls.

        Args:
            image: As ``forward`` takes it.
            pool: One of ``pools``; None leaves the choice to the encoder.

        Raises:
            ValueError: a pooling that the encoder does not offer.
        """
        self.check_pool(pool)
        return EncoderOutput(self(image))

    def check_pool(self, pool: int | None) -> None:
        """Refuses a pooling that is none of ``pools``.

        Raises:
            ValueError: naming those that are.
        """
        if pool is not None and pool not in self.pools:
            offered = ", ".join(map(str, self.pools))
            raise ValueError(f"pool is {pool}, the encoder offers {offered}")


class Decoder(Recorded, nn.Module):
    """Vectors (B, h, w, dim) to images (B, 3, h * factor, w * factor); values near [-1, 1], not clamped.

    One of topology ``1d`` takes sequences (B, N, dim) and gives images of ``image_size`` alone; where the tokenizer has
    lengths (B,), it gets them as a second argument.

    Args:
        dim: Channels of the vectors.
        factor: Pixels per grid point, along each axis.
        topology: How the vectors lie.
        image_size: (H, W) where the decoder gives one size alone.
        modulated: Also wants the quantized vectors before their projection, as ``code``.
    """

    dim: int
    factor: int
    topology: Literal["2d", "1d"] = "2d"
    image_size: tuple[int, int] | None = None
    modulated: bool = False

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight that the adaptive GAN weight compares gradients at."""
        raise NotImplementedError

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the losses that ``loss`` gives; none, unless the decoder draws its images and so learns another way."""
        return ()

    def loss(self, quantized: Tensor, image: Tensor) -> dict[str, Tensor]:
        """The decoder's own losses, unweighted scalars by name; the recipe weighs them.

        Where there are any, training does not decode: no other loss looks at a reconstruction.

        Shapes:
            quantized (B, h, w, dim), image (B, 3, h * factor, w * factor).
        """
        return {}

    def forward(self, quantized: Tensor) -> Tensor:
        """Decodes.

        Shapes:
            quantized (B, h, w, dim) -> image (B, 3, h * factor, w * factor).
        """
        raise NotImplementedError


class FeatureHead(Recorded, nn.Module):
    """Vectors (B, h, w, dim), or (B, N, dim) if ``topology`` is ``1d``, to features (B, h', w', dim_out) of a teacher.

    One that takes either has topology ``any``.

    Args:
        dim: Channels of the vectors.
        dim_out: Channels of the features.
        topology: How the vectors lie.
        shared_with_text: Whether the features lie in a space that texts are embedded in too.
    """

    dim: int
    dim_out: int
    topology: Literal["2d", "1d", "any"] = "2d"
    shared_with_text: bool = False

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
