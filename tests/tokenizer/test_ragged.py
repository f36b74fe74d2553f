import pytest
import torch

from tests.tokenizer.kinds import conv, images, make
from vistok import TokenizerError
from vistok.backbones import AttentionProjection, SelectingEncoder
from vistok.data import Procedural
from vistok.evaluation import evaluate
from vistok.quantizers import VQ, Gaussian
from vistok.spec import ImagePolicy
from vistok.tokenizer import Branch, Encoded, StreamTokens, Tokenizer


def uneven(tokenizer):
    """Weights with which images keep different numbers of tokens."""
    torch.manual_seed(3)
    for layer in (tokenizer.encoder.decide[0], tokenizer.encoder.decide[2]):
        torch.nn.init.normal_(layer.weight, std=2.0)
    return tokenizer


def test_images_keep_as_many_tokens_as_they_need_and_at_least_one():
    tokenizer = uneven(make("ragged"))
    encoded = tokenizer.encode(images(6))
    lengths = encoded.lengths.tolist()
    assert len(set(lengths)) > 1 and min(lengths) >= 1
    assert encoded.indices.shape == (6, max(lengths), 1) and encoded.grid == (16,)
    assert encoded.flat_indices().shape == (sum(lengths), 1)
    for place, length in enumerate(lengths):
        assert not encoded.indices[place, length:].any()


def test_what_lies_beyond_a_length_changes_nothing():
    tokenizer = uneven(make("ragged"))
    encoded = tokenizer.encode(images(6))
    garbage = encoded.indices.clone()
    for place, length in enumerate(encoded.lengths.tolist()):
        garbage[place, length:] = 7
    other = Encoded({"pixel": StreamTokens(garbage, None, encoded.grid)}, encoded.size, encoded.lengths)
    assert torch.equal(tokenizer.decode(other), tokenizer.decode(encoded))


def test_a_batch_decodes_as_its_images_do_alone():
    tokenizer = uneven(make("ragged"))
    x = images(6)
    together = tokenizer.decode(tokenizer.encode(x))
    alone = torch.cat([tokenizer.decode(tokenizer.encode(x[i : i + 1])) for i in range(6)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    bare = tokenizer.encode(x[:1])
    assert torch.equal(tokenizer.decode(indices=bare.indices), tokenizer.decode(bare))


def test_a_training_step_counts_the_tokens_that_there_are():
    tokenizer = uneven(make("ragged")).train()
    output = tokenizer(images(6))
    assert output.indices.shape[0] == 1 and output.indices.shape[1] < 6 * 16
    assert "keep" in output.losses


def test_bits_per_pixel_count_the_tokens_that_there_are():
    tokenizer = uneven(make("ragged"))
    data = Procedural(4, 32, policy=ImagePolicy(size=(32, 32)))
    result = evaluate(tokenizer, data, batch_size=4, perceptual=None, distribution=False, progress=False)
    x = torch.stack([data[i]["image"] for i in range(4)])
    lengths = tokenizer.encode(x).lengths.double()
    measured = {m.protocol.split("/")[0]: m.value for m in result.metrics.values()}
    assert measured["bits_per_pixel"] == pytest.approx(float(lengths.mean()) * 4 / 32**2)


def test_too_many_tokens_are_refused():
    tokenizer = make("ragged")
    with pytest.raises(TokenizerError, match="17 tokens an image, this tokenizer has 16"):
        tokenizer.decode(indices=torch.zeros(1, 17, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="max_tokens is 9"):
        SelectingEncoder(conv(8), max_tokens=9, num_heads=2)(images())


def test_only_the_first_stream_may_vary_in_length():
    branch = Branch(SelectingEncoder(conv(4), max_tokens=16, depth=1, num_heads=2), VQ(8, 4), name="two")
    with pytest.raises(ValueError, match="only the first stream"):
        Tokenizer(conv(4), VQ(8, 4), branches=[branch])


@pytest.mark.parametrize("part", ["quantizer", "project_in"])
def test_parts_that_would_see_the_padding_are_refused(part):
    encoder = SelectingEncoder(conv(8), max_tokens=16, depth=1, num_heads=2)
    parts = {"quantizer": VQ(8, 8), "project_in": None}
    parts[part] = {"quantizer": Gaussian(4), "project_in": AttentionProjection(8, 8, num_heads=2)}[part]
    with pytest.raises(ValueError, match="varying length"):
        Tokenizer(encoder, **parts)
