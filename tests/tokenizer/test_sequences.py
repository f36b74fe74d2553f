import pytest
import torch

from tests.tokenizer.kinds import conv, images, make, pixels, sequence
from vistok import ImageError, TokenizerError
from vistok.backbones import FeatureDecoder, Linear, QueryEncoder
from vistok.quantizers import VQ, MultiScale
from vistok.spec import ImagePolicy
from vistok.tokenizer import Tokenizer


def test_the_spec_of_a_sequence_names_its_length_and_order():
    stream = make("sequence_causal").spec.main
    assert (stream.topology, stream.order, stream.max_tokens, stream.factor) == ("1d", "causal", 6, 0)
    assert stream.grid(32, 32) == stream.grid(64, 96) == (6,)


def test_a_decoder_of_one_size_makes_the_image_policy_of_that_size():
    tokenizer = make("sequence")
    assert tokenizer.spec.image.size == (32, 32)
    assert tokenizer.preprocess(torch.zeros(40, 50, 3, dtype=torch.uint8).numpy()).shape == (1, 3, 32, 32)
    with pytest.raises(ImageError, match="decodes to 32 x 32 alone"):
        tokenizer.encode(images(side=64))
    with pytest.raises(ImageError, match="decodes to 32 x 32 alone"):
        tokenizer(images(side=64))


def test_an_image_policy_of_another_size_is_refused():
    parts = sequence()
    with pytest.raises(ValueError, match="64 x 64 pixels, the decoder gives 32 x 32"):
        Tokenizer(
            parts.encoder,
            parts.quantizer,
            parts.decoder,
            project_in=parts.project_in,
            image=ImagePolicy(size=(64, 64)),
        )


def test_bare_indices_need_no_grid_and_only_the_right_number_decodes():
    tokenizer = make("sequence")
    encoded = tokenizer.encode(images())
    assert torch.equal(tokenizer.decode(indices=encoded.indices), tokenizer.decode(encoded))
    assert torch.equal(tokenizer.decode(indices=encoded.indices, grid=(6,)), tokenizer.decode(encoded))
    with pytest.raises(TokenizerError, match="5 tokens an image, this tokenizer has 6"):
        tokenizer.decode(indices=encoded.indices[:, :5])
    with pytest.raises(TokenizerError, match=r"grid is \(2, 3\)"):
        tokenizer.decode(indices=encoded.indices, grid=(2, 3))


def test_parts_for_grids_and_for_sequences_do_not_meet():
    queries = QueryEncoder(conv(8), 6, width=4, depth=1, num_heads=2)
    with pytest.raises(ValueError, match="QueryEncoder gives a sequence, ConvDecoder takes a grid"):
        Tokenizer(queries, VQ(8, 4), pixels(4))
    with pytest.raises(ValueError, match="ConvEncoder gives a grid, MaskTokenDecoder takes a sequence"):
        Tokenizer(conv(4), VQ(16, 4), sequence().decoder)
    with pytest.raises(ValueError, match="FeatureDecoder takes a grid"):
        Tokenizer(queries, VQ(8, 4), feature_head=FeatureDecoder(4, 4, width=8, num_heads=2))
    with pytest.raises(ValueError, match="MultiScale needs a grid"):
        Tokenizer(queries, MultiScale(VQ(8, 4), (1, 2)))


def test_one_tokenizer_without_a_pixel_decoder_takes_images_of_any_size():
    tokenizer = Tokenizer(
        QueryEncoder(conv(8), 6, width=16, depth=1, num_heads=2), VQ(8, 4), project_in=Linear(16, 4)
    ).eval()
    assert tokenizer.encode(images(side=64)).indices.shape == (3, 6, 1)
    assert tokenizer.spec.multiple_of == 8


def test_a_sequence_without_a_pixel_decoder_takes_images_of_its_policy_alone():
    def made(image):
        encoder = QueryEncoder(conv(8), 6, width=16, depth=1, num_heads=2)
        return Tokenizer(encoder, VQ(16, 4), project_in=Linear(16, 4), image=image, name="seq")

    tokenizer = made(ImagePolicy(size=(32, 32)))
    assert tokenizer.encode(images()).indices.shape == (3, 6, 1)
    for call in (tokenizer.encode, tokenizer):
        with pytest.raises(
            ImageError, match="the input of seq is 64 x 64: it makes sequences of images of 32 x 32 alone"
        ):
            call(images(side=64))
    assert made(None).encode(images(side=64)).indices.shape == (3, 6, 1)
