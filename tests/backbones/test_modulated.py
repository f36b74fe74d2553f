from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vistok import Tokenizer, load
from vistok.backbones import ConvEncoder, Linear, ModulatedDecoder, StillConvs
from vistok.backbones.modulated import ModulatedNorm
from vistok.quantizers import VQ


def decoder(**arguments: object) -> ModulatedDecoder:
    return ModulatedDecoder(6, 4, 16, (1, 2), num_res_blocks=1, attention_at=(1,), **arguments)  # type: ignore[arg-type]


def tokenizer() -> Tokenizer:
    return Tokenizer(
        ConvEncoder(6, 16, (1, 2), num_res_blocks=1),
        VQ(16, 4, init="uniform"),
        decoder(),
        project_in=Linear(6, 4),
        project_out=Linear(4, 6),
    )


def test_the_code_scales_and_shifts_what_was_normalised() -> None:
    norm = ModulatedNorm(8, 4)
    x, code = torch.randn(2, 8, 6, 6), torch.randn(2, 4, 3, 3)
    large = F.interpolate(code, size=(6, 6))
    expected = norm.norm(x) * norm.scale(large) + norm.shift(large)
    assert torch.allclose(norm(x, code), expected, atol=1e-6)


def test_both_inputs_decide_the_image() -> None:
    model = decoder().eval()
    quantized, code = torch.randn(1, 4, 6, 6), torch.randn(1, 4, 6, 4)
    image = model(quantized, code)
    assert image.shape == (1, 3, 8, 12)
    assert not torch.allclose(image, model(quantized + 1, code), atol=1e-3)
    assert not torch.allclose(image, model(quantized, code + 1), atol=1e-3)


def test_a_tokenizer_gives_its_decoder_the_codes_as_they_are(tmp_path) -> None:
    made = tokenizer().eval()
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    tokens = made.encode(x)
    codes = made.embed(tokens).unflatten(1, tokens.grid)
    assert made.decoder is not None
    with torch.no_grad():
        expected = made.decoder(made.project_out(codes), codes).clamp(-1, 1)  # type: ignore[call-arg]
    assert torch.allclose(made.decode(tokens), expected, atol=1e-6)
    made.save(tmp_path / "t")
    assert torch.equal(load(tmp_path / "t").decode(tokens), made.decode(tokens))


def test_gradients_reach_the_encoder_through_the_modulation_alone() -> None:
    made = tokenizer()
    assert made.decoder is not None
    for parameter in made.project_out.parameters():
        parameter.data.zero_()
    image = made(torch.rand(1, 3, 16, 16)).image
    assert image is not None
    image.square().mean().backward()
    gradient = made.encoder.get_parameter("conv_out.weight").grad
    assert gradient is not None and gradient.abs().sum() > 0


def test_codes_of_other_channels_are_refused() -> None:
    with pytest.raises(
        ValueError, match="code_dim of the decoder is 4, quantized vectors of 6 channels arrive"
    ):
        Tokenizer(ConvEncoder(6, 16, (1, 2), num_res_blocks=1), VQ(16, 6), decoder())
    with pytest.raises(ValueError, match="dim is 6, code_dim 4"):
        decoder(refine=StillConvs(4, (1,)))


@pytest.mark.parametrize("frames", [(2, 1), (1, 1), (1,), (4, 2, 1)])
@pytest.mark.parametrize("res_first", [False, True])
def test_still_convolutions_keep_the_grid(frames: tuple[int, ...], res_first: bool) -> None:
    model = StillConvs(3, frames, num_res_blocks=1, res_first=res_first, dim_out=5)
    y = model(torch.randn(2, 4, 6, 3))
    assert y.shape == (2, 4, 6, 5) and y.is_contiguous() and (model.dim_in, model.dim_out) == (3, 5)


def test_frames_that_do_not_end_in_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"end with 1, as \(2, 1\), not \(4, 2\)"):
        StillConvs(3, (4, 2))
