from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vistok.backbones import ResizedEncoder, ViTEncoder
from vistok.errors import ImageError


def test_the_encoder_sees_the_size_that_gives_the_same_grid() -> None:
    inner = ViTEncoder(7, 16, 1, 2)
    encoder = ResizedEncoder(inner, 8)
    image = torch.rand(1, 3, 32, 48) * 2 - 1
    latent = encoder(image)
    assert latent.shape == (1, 4, 6, 16) and (encoder.dim, encoder.factor) == (16, 8)
    assert torch.equal(latent, inner(F.interpolate(image, size=(28, 42), mode="bicubic")))


def test_an_encoder_of_that_factor_sees_the_image_itself() -> None:
    inner = ViTEncoder(8, 16, 1, 2)
    image = torch.rand(1, 3, 32, 48) * 2 - 1
    assert torch.equal(ResizedEncoder(inner, 8)(image), inner(image))


def test_an_image_whose_sides_are_no_multiples_of_the_factor_is_refused() -> None:
    with pytest.raises(ImageError, match="multiples of 8"):
        ResizedEncoder(ViTEncoder(7, 16, 1, 2), 8)(torch.zeros(1, 3, 28, 28))
