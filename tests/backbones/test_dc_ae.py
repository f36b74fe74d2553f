from __future__ import annotations

import pytest
import torch

from vistok.backbones import DCDecoder, DCEncoder
from vistok.errors import ImageError

WIDTHS = (8, 16, 32)


@pytest.mark.parametrize("depths", [(1, 1, 1), (0, 2, 1)])
@pytest.mark.parametrize("resample", ["shuffle", "conv"])
@pytest.mark.parametrize("scales", [(), (3, 5)])
def test_latents_and_images_have_the_sides_that_the_factor_says(depths, resample, scales) -> None:
    arguments = {"attention_at": (2,), "scales": scales, "head_dim": 8, "resample": resample}
    encoder = DCEncoder(4, WIDTHS, depths, **arguments)
    decoder = DCDecoder(4, WIDTHS, depths, **arguments)
    latent = encoder(torch.rand(2, 3, 16, 24) * 2 - 1)
    assert latent.shape == (2, 4, 6, 4) and latent.is_contiguous() and encoder.factor == 4
    image = decoder(latent)
    assert image.shape == (2, 3, 16, 24)
    image.square().mean().backward()
    unused = [name for name, parameter in decoder.named_parameters() if parameter.grad is None]
    assert not unused and decoder.last_layer.grad is not None


def test_half_precision_attends_in_float32() -> None:
    encoder = DCEncoder(4, WIDTHS, (1, 1, 1), attention_at=(2,), head_dim=8).bfloat16()
    assert encoder(torch.rand(1, 3, 16, 16).bfloat16()).dtype == torch.bfloat16
    encoder.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder(torch.rand(1, 3, 16, 16)).isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"depths": (1, 1)}, "these are 3 and 2"),
        ({"depths": (1, 0, 1)}, "every level but the first has one block or more"),
        ({"dim": 5}, "dim 5 must divide the coarsest width, 32"),
        ({"widths": (4, 16, 96)}, "a level of width 96 cannot follow one of 16"),
        ({"attention_at": (1,), "head_dim": 32}, "attention_at names level 1"),
        ({"scales": (4,)}, "scales are odd sides"),
        ({"attention_at": (3,)}, "attention_at names level 3"),
    ],
)
def test_levels_that_do_not_meet_are_refused(arguments, told) -> None:
    with pytest.raises(ValueError, match=told):
        DCEncoder(**{"dim": 4, "widths": WIDTHS, "depths": (1, 1, 1), "attention_at": (), **arguments})


def test_an_image_whose_sides_are_no_multiples_of_the_factor_is_refused() -> None:
    with pytest.raises(ImageError, match="multiples of 4"):
        DCEncoder(4, WIDTHS, (1, 1, 1), attention_at=())(torch.zeros(1, 3, 16, 18))
