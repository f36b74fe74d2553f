import math

import pytest
import torch

from vistok.downstream.baseline import unigram_bits_per_image
from vistok.downstream.vocabulary import LARGEST, Vocabulary
from vistok.errors import TokenizerError
from vistok.spec import StreamSpec


@pytest.mark.parametrize(
    "stream",
    [
        StreamSpec(codebook_size=1024),
        StreamSpec(codebook_size=4096, num_groups=8),
        StreamSpec(codebook_size=1 << 18, bits=18),
        StreamSpec(codebook_size=1 << 32, bits=32, num_groups=2),
        StreamSpec(codebook_size=64000, levels=(8, 8, 8, 5, 5, 5)),
        StreamSpec(codebook_size=1 << 16),
        StreamSpec(codebook_size=196560),
    ],
)
def test_indices_are_the_same_after_parts(stream):
    vocabulary = Vocabulary.of(stream)
    assert math.prod(vocabulary.digits) == stream.codebook_size and max(vocabulary.digits) <= LARGEST
    indices = torch.randint(stream.codebook_size, (3, 5, stream.num_groups))
    parts = vocabulary.split(indices)
    assert parts.shape == (3, 5, len(vocabulary.sizes))
    assert all(int(parts[..., p].max()) < size for p, size in enumerate(vocabulary.sizes))
    assert torch.equal(vocabulary.join(parts), indices)


def test_levels_are_split_where_one_level_ends():
    assert Vocabulary.of(StreamSpec(codebook_size=64000, levels=(8, 8, 8, 5, 5, 5))).digits == (25, 2560)


def test_a_large_prime_codebook_is_refused():
    with pytest.raises(TokenizerError, match="too few divisors"):
        Vocabulary.of(StreamSpec(codebook_size=1_000_003))


def test_the_vectors_of_digits_add_up_to_those_of_codes(tiny_tokenizer):
    tokenizer = tiny_tokenizer("lfq18")
    vocabulary = Vocabulary.of(tokenizer.spec.main)
    high, low = (v - v.mean(dim=0) for v in vocabulary.vectors(tokenizer, "pixel"))
    indices = torch.randint(1 << 18, (1, 50, 1))
    parts = vocabulary.split(indices)[0]
    assert torch.allclose(high[parts[:, 0]] + low[parts[:, 1]], tokenizer.embed(indices)[0], atol=1e-5)


def test_the_baseline_of_a_large_codebook_is_the_cheaper_way_to_count():
    vocabulary = Vocabulary.of(StreamSpec(codebook_size=1 << 18, bits=18))
    train = torch.randint(16, (20, 4, 1))
    # the first digit is always 0 and the second one of 16, so counting digits is nearly free of smoothing
    assert unigram_bits_per_image(train, train, vocabulary) < 4 * 14
