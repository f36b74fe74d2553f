import pytest
import torch

import vistok
from vistok.backbones import ConvDecoder, ConvEncoder
from vistok.errors import TokenizerError
from vistok.quantizers import BSQ, VQ, MultiScale
from vistok.tokenizer import Tokenizer


def make(stage):
    torch.manual_seed(0)
    small = {"channels": 8, "multipliers": (1, 1, 1), "num_res_blocks": 1}
    encoder, decoder = ConvEncoder(dim=4, **small), ConvDecoder(dim=4, **small)
    return Tokenizer(encoder, MultiScale(stage, (1, 2, 4, 8)), decoder).eval()


def images(height=32, width=32):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


each = pytest.mark.parametrize(
    "stage", [VQ(16, 4, init="uniform"), BSQ(4, bit_labels=True)], ids=["vq", "bit_labels"]
)


@each
def test_a_multi_scale_tokenizer_encodes_all_scales_and_decodes_their_sum(stage):
    tokenizer = make(stage)
    with torch.no_grad():
        encoded = tokenizer.encode(images())
        assert encoded.indices.shape == (2, 1 + 4 + 16 + 64, stage.num_groups) and encoded.grid == (8, 8)
        expected = tokenizer(images()).image.clamp(-1, 1)
        torch.testing.assert_close(tokenizer.decode(encoded), expected)
        torch.testing.assert_close(tokenizer.decode(indices=encoded.indices), expected)
    stream = tokenizer.spec.main
    assert (stream.topology, stream.scales, stream.max_tokens) == ("multiscale", (1, 2, 4, 8), 85)


@each
def test_views_of_multi_scale_tokens(stage):
    tokenizer = make(stage)
    encoded = tokenizer.encode(images())
    assert tokenizer.embed(encoded).shape == (2, 85, 4)
    assert tokenizer.embed(encoded, depthwise=True).shape[:3] == (2, 85, stage.num_groups)
    cumulative = tokenizer.embed(encoded, cumulative=True)
    whole = tokenizer.quantizer(tokenizer.encoder(images())).quantized
    torch.testing.assert_close(cumulative[:, -64:], whole.flatten(1, 2), atol=1e-5, rtol=1e-4)


def test_an_oblong_image_needs_its_grid_said():
    tokenizer = make(VQ(16, 4, init="uniform"))
    encoded = tokenizer.encode(images(32, 48))
    assert encoded.grid == (8, 12) and tokenizer.decode(encoded).shape == (2, 3, 32, 48)
    with pytest.raises(TokenizerError, match="say grid"):
        tokenizer.decode(indices=encoded.indices)
    with pytest.raises(TokenizerError, match="whole scales"):
        tokenizer.decode(indices=encoded.indices[:, :-1], grid=(8, 12))


def test_a_saved_multi_scale_tokenizer_comes_back_equal(tmp_path):
    tokenizer = make(VQ(16, 4, init="uniform"))
    tokenizer.save(tmp_path / "tokenizer")
    again = vistok.load(tmp_path / "tokenizer")
    assert torch.equal(again.encode(images()).indices, tokenizer.encode(images()).indices)
    assert again.spec == tokenizer.spec
