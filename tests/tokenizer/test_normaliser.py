"""Shift and scale: for all latents, for each channel, for each element of one grid."""

from __future__ import annotations

import json

import pytest
import torch

from tests.training.parts import make_tokenizer
from vistok import load
from vistok.errors import TokenizerError
from vistok.quantizers import Gaussian
from vistok.spec import TokenizerSpec
from vistok.tokenizer import Encoded, LatentNormaliser, StreamTokens

RAW = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("shift", "scale"), [(0.5, 2.0), ([1.0, 2.0, 3.0, 4.0, 5.0], 0.5)])
def test_it_is_undone_by_its_inverse(shift, scale):
    normaliser = LatentNormaliser(5)
    normaliser.set(shift, scale)
    expected = (RAW - torch.tensor(shift)) * scale
    torch.testing.assert_close(normaliser(RAW), expected)
    torch.testing.assert_close(normaliser.inverse(normaliser(RAW)), RAW)


def test_elements_have_values_of_their_own_whatever_shape_the_latents_come_in():
    normaliser = LatentNormaliser(5)
    shift, scale = torch.randn(12, 5), torch.rand(12, 5) + 0.1
    normaliser.set(shift, scale, (3, 4))
    flat = (RAW.flatten(1, 2) - shift) * scale
    torch.testing.assert_close(normaliser(RAW), flat.view_as(RAW))
    torch.testing.assert_close(normaliser(RAW.flatten(1, 2)), flat)
    torch.testing.assert_close(normaliser.inverse(flat), RAW.flatten(1, 2))
    torch.testing.assert_close(normaliser.rescale(torch.ones(2, 3, 4, 5))[0].flatten(0, 1), scale)


def test_another_grid_is_refused_with_the_remedy():
    normaliser = LatentNormaliser(5)
    normaliser.set(0.0, 1.0, (3, 4))
    for wrong in (RAW[:, :2], RAW.transpose(1, 2), RAW[:, :2].flatten(1, 2)):
        with pytest.raises(TokenizerError, match=r"per element of a grid of 3 x 4.*or normalise per channel"):
            normaliser(wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.0, 1.0], 1.0), "2 values given for 5 channels: give 1 or 5"),
        ((0.0, [1.0] * 7, (3, 4)), "give 1 or 5 or 60"),
        ((0.0, 0.0), "above 0"),
        ((0.0, [1.0, 1.0, float("inf"), 1.0, 1.0]), "NaN or Inf"),
        ((0.0, float("nan")), "NaN or Inf"),
        (([0.0, 0.0, float("nan"), 0.0, 0.0], 1.0), "NaN or Inf"),
        ((0.0, 1e39), "NaN or Inf"),  # beyond float32
        ((0.0, 1e-50), "above 0"),
    ],
)
def test_values_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LatentNormaliser(5).set(*arguments)


def test_a_tokenizer_with_values_per_element_is_saved_whole_and_told_by_its_spec(tmp_path):
    tokenizer = make_tokenizer(Gaussian(4)).eval()
    generator = torch.Generator().manual_seed(0)
    shift, scale = torch.randn(64, 4, generator=generator), torch.rand(64, 4, generator=generator) + 0.5
    tokenizer.normaliser.set(shift, scale, (8, 8))
    tokenizer.save(tmp_path / "t")
    loaded = load(tmp_path / "t")
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    encoded = loaded.encode(image)
    torch.testing.assert_close(encoded.latents, tokenizer.encode(image).latents)
    with torch.no_grad():
        expected = tokenizer(image).image.clamp(-1, 1)
        torch.testing.assert_close(loaded.decode(encoded), expected, atol=1e-4, rtol=1e-4)
    mean, deviation = loaded.moments(image).latents.chunk(2, dim=-1)
    torch.testing.assert_close(mean, encoded.latents)
    raw = tokenizer.quantizer.moments(tokenizer.encoder(image))[1].flatten(1, 2)
    torch.testing.assert_close(deviation, raw * scale)
    spec = TokenizerSpec.from_json(loaded.spec.to_json())
    assert spec.latents.grid == (8, 8) and len(spec.latents.scale) == 64 * 4
    torch.testing.assert_close(torch.tensor(spec.latents.shift).view(64, 4), shift)
    with pytest.raises(TokenizerError, match="8 x 8, and these lie on 4 x 4"):
        loaded.encode(image[..., :8, :8])


def test_latents_per_element_are_not_decoded_on_another_grid_of_as_many_tokens():
    tokenizer = make_tokenizer(Gaussian(4)).eval()
    tokenizer.normaliser.set(0.0, torch.rand(64, 4) + 0.5, (8, 8))
    encoded = tokenizer.encode(torch.rand(1, 3, 16, 16) * 2 - 1)
    message = "per element of a grid of 8 x 8, and these lie on 4 x 16"
    with pytest.raises(TokenizerError, match=message):
        tokenizer.decode(latents=encoded.latents, grid=(4, 16))
    stretched = Encoded({"pixel": StreamTokens(None, encoded.latents, (4, 16))}, (8, 32))
    for reads in (tokenizer.decode, tokenizer.embed):
        with pytest.raises(TokenizerError, match=message):
            reads(stretched)


def test_the_saved_config_leaves_values_per_element_to_the_weights(tmp_path):
    tokenizer = make_tokenizer(Gaussian(4)).eval()
    tokenizer.normaliser.set(torch.randn(64, 4), torch.rand(64, 4) + 0.5, (8, 8))
    tokenizer.save(tmp_path / "t")
    file = tmp_path / "t" / "config.json"
    config = json.loads(file.read_text())
    assert config["spec"]["latents"]["shift"] == config["spec"]["latents"]["scale"] == []
    assert load(tmp_path / "t").spec == tokenizer.spec
    # the first format had them there
    file.write_text(json.dumps({**config, "format_version": 1, "spec": tokenizer.spec.to_json_data()}))
    assert load(tmp_path / "t").spec == tokenizer.spec
