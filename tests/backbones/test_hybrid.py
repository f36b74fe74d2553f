from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vistok.backbones import HybridDecoder, HybridEncoder
from vistok.errors import ImageError
from vistok.recorded import build

SMALL: dict[str, Any] = {"width": 32, "depth": 1, "num_heads": 2, "stem": (8, 16), "stem_depths": (1, 2)}


def image(height: int = 32, width: int = 48) -> Tensor:
    return torch.rand(2, 3, height, width) * 2 - 1


@pytest.mark.parametrize(("stem", "factor"), [((8,), 8), ((8, 16), 16), ((4, 8, 16), 32)])
def test_latents_and_images_have_the_sides_that_the_stem_says(stem: tuple[int, ...], factor: int) -> None:
    options = {**SMALL, "stem": stem, "stem_depths": (1,) * len(stem)}
    encoder, decoder = HybridEncoder(**options), HybridDecoder(**options)
    assert encoder.factor == decoder.factor == factor and encoder.dim == decoder.dim == 32
    latent = encoder(image(factor * 3, factor * 5))
    assert latent.shape == (2, 3, 5, 32) and latent.is_contiguous()
    assert decoder(latent).shape == (2, 3, factor * 3, factor * 5)


def test_every_weight_is_trained_under_autocast() -> None:
    encoder, decoder = HybridEncoder(**SMALL), HybridDecoder(**SMALL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = (decoder(encoder(image())).float() - image()).square().mean()
    loss.backward()
    for parameter in (*encoder.parameters(), *decoder.parameters()):
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()
    assert decoder.last_layer.shape == (3, 8, 3, 3)


def test_an_image_whose_sides_are_no_multiples_of_the_factor_is_refused() -> None:
    with pytest.raises(ImageError, match=r"48 x 40 pixels .* multiples of 16"):
        HybridEncoder(**SMALL)(image(40, 48))


def test_a_stem_without_depths_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a positive number for every stage, they are \(8, 16\) and \(1,\)"):
        HybridEncoder(**{**SMALL, "stem_depths": (1,)})
    with pytest.raises(ValueError, match="every stage"):
        HybridDecoder(**{**SMALL, "stem": (), "stem_depths": ()})


@pytest.mark.parametrize("kind", [HybridEncoder, HybridDecoder])
def test_the_config_builds_the_same_network(kind: type[HybridEncoder] | type[HybridDecoder]) -> None:
    network = kind(**SMALL).eval()
    again = build(network.to_config(), {kind.__name__: kind}).eval()
    again.load_state_dict(network.state_dict())
    x = image() if kind is HybridEncoder else torch.randn(1, 2, 3, 32)
    assert torch.equal(network(x), again(x))


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_vitamin_large_has_as_many_weights_as_in_timm() -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        theirs = timm.create_model("vitamin_large_256", num_classes=0)
        encoder = HybridEncoder(1024, 31, 16)
        assert num_parameters(encoder.conv_in) == num_parameters(theirs.patch_embed.backbone.stem)
        assert num_parameters(encoder.stages) == num_parameters(theirs.patch_embed.backbone.stages)
    assert abs(num_parameters(encoder) / num_parameters(theirs) - 1) < 0.01
