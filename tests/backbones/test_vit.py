from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vistok.backbones import ViTDecoder, ViTEncoder
from vistok.backbones.vit import LearnedPositions
from vistok.errors import ImageError
from vistok.recorded import build

SMALL: dict[str, Any] = {"width": 32, "depth": 1, "num_heads": 2}
LEARNED: dict[str, Any] = {**SMALL, "positions": "learned", "grid": (4, 4)}


def image(height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(2, 3, height, width) * 2 - 1


@pytest.mark.parametrize("patch", [4, 8, 16, 32])
@pytest.mark.parametrize("options", [SMALL, LEARNED])
def test_latents_and_images_have_the_sides_that_the_patch_says(patch: int, options: dict[str, Any]) -> None:
    encoder, decoder = ViTEncoder(patch, **options), ViTDecoder(patch, **options)
    latent = encoder(image(32, 64))
    assert latent.shape == (2, 32 // patch, 64 // patch, 32) and latent.is_contiguous()
    assert decoder(latent).shape == (2, 3, 32, 64)
    assert encoder.factor == decoder.factor == patch and encoder.dim == decoder.dim == 32


def test_learned_positions_stay_as_they_are_on_their_own_grid() -> None:
    positions = LearnedPositions((3, 4), 8)
    assert torch.equal(positions(torch.zeros(2, 3, 4, 8))[0], positions.table[0])


def test_learned_positions_are_resized_smoothly() -> None:
    positions = LearnedPositions((4, 4), 1)
    ramp = torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 4, 1)
    positions.table.data.copy_(ramp)
    resized = positions(torch.zeros(1, 8, 8, 1))[0, :, :, 0]
    assert torch.all(resized.diff(dim=0) > 0)
    torch.testing.assert_close(resized.diff(dim=1), torch.zeros(8, 7), rtol=0, atol=1e-5)
    torch.testing.assert_close(resized.mean(), torch.tensor(1.5))


def test_learned_positions_resize_in_bfloat16() -> None:
    encoder = ViTEncoder(8, **LEARNED).bfloat16()
    assert encoder(image(64, 32).bfloat16()).dtype == torch.bfloat16


def test_learned_positions_without_a_grid_are_refused() -> None:
    with pytest.raises(ValueError, match=r"need grid=\(h, w\)"):
        ViTEncoder(8, **SMALL, positions="learned")
    with pytest.raises(ValueError, match="not 'sine'"):
        ViTDecoder(8, **SMALL, positions="sine")  # type: ignore[arg-type]


def test_an_image_whose_sides_are_no_multiples_of_the_patch_is_refused() -> None:
    with pytest.raises(ImageError, match=r"36 x 32 pixels .* multiples of 8"):
        ViTEncoder(8, **SMALL)(image(32, 36))


@pytest.mark.parametrize("options", [SMALL, LEARNED])
def test_autocast_trains_every_weight(options: dict[str, Any]) -> None:
    encoder, decoder = ViTEncoder(8, **options), ViTDecoder(8, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = (decoder(encoder(image())).float() - image()).square().mean()
    loss.backward()
    for parameter in (*encoder.parameters(), *decoder.parameters()):
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()


def test_the_seam_convolution_starts_as_the_identity_and_is_the_last_layer() -> None:
    torch.manual_seed(0)
    smooth = ViTDecoder(8, **SMALL)
    plain = ViTDecoder(8, **SMALL, smooth=False)
    plain.load_state_dict({k: v for k, v in smooth.state_dict().items() if not k.startswith("smooth")})
    quantized = torch.randn(1, 2, 3, 32)
    torch.testing.assert_close(smooth(quantized), plain(quantized))
    assert smooth.last_layer.shape == (3, 3, 3, 3)
    assert plain.last_layer is plain.to_pixels.weight


@pytest.mark.parametrize("options", [SMALL, LEARNED])
def test_the_config_builds_the_same_network(options: dict[str, Any]) -> None:
    encoder = ViTEncoder(8, **options)
    again = build(encoder.to_config(), {"ViTEncoder": ViTEncoder})
    again.load_state_dict(encoder.state_dict())
    x = image()
    assert torch.equal(encoder(x), again(x))
