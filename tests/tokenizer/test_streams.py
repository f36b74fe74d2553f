import pytest
import torch

from tests.tokenizer.kinds import conv, images, make, pixels
from vistok import TokenizerError
from vistok.backbones import FeatureDecoder, ViTEncoder
from vistok.quantizers import VQ, Gaussian, Residual
from vistok.tokenizer import Branch, Encoded, Merge, Tokenizer


def test_streams_have_grids_roles_and_losses_of_their_own():
    tokenizer = make("dual")
    spec = tokenizer.spec
    assert [(s.name, s.role, s.factor, s.num_groups) for s in spec.streams] == [
        ("semantic", "semantic", 16, 1),
        ("pixel", "pixel", 8, 2),
    ]
    assert spec.multiple_of == 16 and spec.features.semantic == 12 and spec.kind == "discrete"
    assert {"semantic/commitment", "pixel/commitment"} <= {*tokenizer.loss_names}
    encoded = tokenizer.encode(images())
    assert encoded["semantic"].grid == (2, 2) and encoded["pixel"].grid == (4, 4)
    assert encoded.indices is encoded["semantic"].indices


def test_a_single_stream_keeps_plain_names():
    assert make("joined").loss_names == ("commitment", "codebook")
    assert [stream.name for stream in make("joined").spec.streams] == ["pixel"]


def test_both_streams_change_the_picture():
    tokenizer = make("dual")
    encoded = tokenizer.encode(images())
    picture = tokenizer.decode(encoded)
    for name in encoded:
        other = dict(encoded.streams)
        tokens = other[name]
        other[name] = type(tokens)((tokens.indices + 1) % 8, None, tokens.grid)
        assert not torch.allclose(tokenizer.decode(Encoded(other, encoded.size)), picture)


def test_several_streams_are_decoded_together_or_not_at_all():
    tokenizer = make("dual")
    encoded = tokenizer.encode(images())
    with pytest.raises(TokenizerError, match="streams semantic, pixel: decode takes them together"):
        tokenizer.decode(indices=encoded.indices)
    with pytest.raises(TokenizerError, match="without stream pixel"):
        tokenizer.decode(Encoded({"semantic": encoded["semantic"]}, encoded.size))
    with pytest.raises(TokenizerError, match="no stream 'text', it has semantic, pixel"):
        tokenizer.embed(encoded, stream="text")


def test_discrete_and_continuous_streams_stand_side_by_side():
    tokenizer = make("mixed")
    assert tokenizer.spec.kind == "both" and tokenizer.spec.latents.channels == 4
    encoded = tokenizer.encode(images())
    assert encoded["pixel"].latents is None and encoded["detail"].indices is None
    moments = tokenizer.moments(images())
    assert torch.equal(moments["detail"].latents[..., :4], encoded["detail"].latents)
    assert torch.equal(moments["pixel"].indices, encoded["pixel"].indices)


def test_noise_acts_in_training_alone():
    tokenizer, x = make("dual"), images()
    expected = tokenizer(x).image
    assert torch.equal(tokenizer(x).image, expected)
    tokenizer.train()
    assert not torch.equal(tokenizer(x).image, expected)


@pytest.mark.parametrize(
    ("branch", "words"),
    [
        (lambda: Branch(conv(4), VQ(8, 4), name="pixel"), "different names"),
        (
            lambda: Branch(conv(4), VQ(8, 4), name="two", merge=Merge("sum")),
            "6 and 4 channels .*set project_out",
        ),
        (lambda: Branch(conv(4), VQ(8, 4), name="two", merge=Merge()), "ConvDecoder expects 4 channels, 8"),
        (lambda: Branch(conv(4), VQ(8, 5), name="two"), "quantizer expects 5 channels, 4 arrive"),
        (lambda: Branch(conv(4), VQ(8, 4), name="a/b"), "letters, digits"),
        (lambda: Branch(conv(4, 16), VQ(8, 4), name="two", merge=Merge()), "ConvDecoder expects"),
        (lambda: VQ(8, 4), "must be a Branch"),
    ],
)
def test_branches_that_do_not_fit_are_refused(branch, words):
    dim = 6 if "6 and 4" in words else 4
    with pytest.raises(ValueError, match=words):
        Tokenizer(conv(dim), VQ(8, dim), pixels(dim), branches=[branch()])


def test_the_merged_grid_must_be_the_decoders():
    coarse = Branch(conv(4, 16), VQ(8, 4), name="two", merge=Merge(onto="branch"))
    with pytest.raises(ValueError, match="merged grid has factor 16, the decoder's 8"):
        Tokenizer(conv(4), VQ(8, 4), pixels(8), branches=[coarse])


def test_what_a_spec_cannot_describe_is_refused():
    head = lambda: FeatureDecoder(4, 4, width=8, num_heads=2)  # noqa: E731
    with pytest.raises(ValueError, match="at most one"):
        Tokenizer(
            conv(4),
            VQ(8, 4),
            feature_head=head(),
            branches=[Branch(conv(4), VQ(8, 4), name="two", feature_head=head())],
        )
    with pytest.raises(ValueError, match="latents of one"):
        Tokenizer(conv(8), Gaussian(4), branches=[Branch(conv(8), Gaussian(4), name="two")])
    with pytest.raises(ValueError, match="add one, or leave merge out"):
        Tokenizer(conv(4), VQ(8, 4), branches=[Branch(conv(4), VQ(8, 4), name="two", merge=Merge())])


def test_codes_of_every_stream_are_prepared_and_updated():
    quantizer = VQ(8, 4, init="kmeans", update="ema")
    tokenizer = Tokenizer(
        ViTEncoder(8, 4, depth=1, num_heads=1),
        VQ(8, 4, init="kmeans"),
        branches=[Branch(conv(4), Residual(quantizer, 2), name="two")],
    ).train()
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    tokenizer.prepare(images(4))
    prepared = tokenizer.state_dict()
    moved = {name for name in before if not torch.equal(before[name], prepared[name])}
    assert any(name.startswith("quantizer.") for name in moved)
    assert any(name.startswith("branches.0.quantizer.") for name in moved)
