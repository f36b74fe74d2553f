import json

import pytest
import torch

from vistok import Tokenizer, downstream, shards
from vistok.backbones import ConvDecoder, ConvEncoder
from vistok.downstream.images import prepare
from vistok.errors import DataError, ShardError, TokenizerError, VistokError
from vistok.quantizers import FSQ
from vistok.spec import ImagePolicy

# every kind of tokenizer with a backbone, and the steps that the loss takes to fall
PAIRS = [
    ("vq", "ar", 25),
    ("vq", "masked", 25),
    ("fsq", "ar", 25),
    ("residual", "ar", 25),
    ("product", "masked", 25),
    ("multi-scale", "next-scale", 25),
    ("multi-scale", "ar", 25),
    ("lfq18", "ar", 25),
    ("sequence_reversed", "ar", 25),
    ("sequence", "masked", 25),
    ("dual", "ar", 25),
    ("sequence_continuous", "diffusion", 25),
    ("continuous", "diffusion", 25),
    ("continuous", "mixed", 25),
]


@pytest.fixture(scope="module")
def encoded(photographs, tiny_tokenizer, tmp_path_factory):
    """A directory of shards for each kind of tokenizer, made when first asked for."""
    folders = {}

    def folder(kind):
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(kind)
            prepare(tiny_tokenizer(kind), photographs, folders[kind], size=32)
        return folders[kind] / "shards"

    return folder


@pytest.mark.parametrize(("kind", "backbone", "steps"), PAIRS)
def test_the_loss_falls_below_the_baseline_and_samples_decode(kind, backbone, steps, tiny_tokenizer, encoded):
    tokenizer = tiny_tokenizer(kind)
    result = downstream.run(tokenizer, encoded(kind), backbone, seconds=None, steps=steps, num_samples=3)
    assert result.loss < result.baseline, result.to_json()
    for held_out, drawn in zip(result.held_out.streams, result.sample_tokens.values(), strict=True):
        assert drawn.values.shape == (3, *held_out.values.shape[1:])
        assert drawn.values.dtype == held_out.values.dtype
    assert result.samples.shape == result.real.shape == (3, 3, 32, 32)
    assert result.samples.isfinite().all()
    if tokenizer.spec.kind == "continuous":
        assert result.bits_per_image is None
        assert result.baseline == result.baselines["independent"] < result.baselines["mean"]
    else:
        assert result.num_tokens == sum(stream.indices[0].numel() for stream in result.held_out.streams)
        assert result.bits_per_token * result.num_tokens == pytest.approx(result.loss)
    assert json.loads(result.to_json())["backbone"] == backbone
    if backbone == "mixed":
        assert result.details["words_bits_per_image"] < result.details["words_unigram_bits_per_image"]
        assert len(result.captions) == 3


def test_the_same_seed_gives_the_same_result(tiny_tokenizer, encoded):
    a, b = (
        downstream.run(
            tiny_tokenizer("vq"), encoded("vq"), "ar", seconds=None, steps=3, num_samples=2, seed=5
        )
        for _ in range(2)
    )
    assert a.loss == b.loss and torch.equal(a.sample_tokens.tokens, b.sample_tokens.tokens)


@pytest.mark.parametrize(
    ("kind", "backbone", "remedy"),
    [
        ("vq", "next-scale", "choose ar or masked"),
        ("vq", "diffusion", "choose ar or masked"),
        ("multi-scale", "mixed", "choose ar or masked or next-scale"),
        ("continuous", "ar", "choose diffusion or mixed"),
        ("dual", "masked", r"2 streams \(semantic, pixel\): choose ar"),
        ("mixed", "ar", "none here does"),
        ("ragged", "ar", "varying number"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused_with_the_backbones_that_do(
    kind, backbone, remedy, tiny_tokenizer
):
    with pytest.raises(TokenizerError, match=remedy):
        downstream.run(tiny_tokenizer(kind), "photos", backbone)


def test_a_backbone_that_is_none_is_refused(tiny_tokenizer):
    with pytest.raises(VistokError, match="choose one of ar, masked"):
        downstream.run(tiny_tokenizer("vq"), "photos", "mamba")


def test_shards_of_another_tokenizer_are_refused(tiny_tokenizer, encoded):
    with pytest.raises(ShardError, match="another tokenizer"):
        downstream.run(tiny_tokenizer("fsq"), encoded("vq"), "ar")


def test_shards_of_whole_images_are_split_by_images(photographs, tiny_tokenizer, tmp_path):
    tokenizer = tiny_tokenizer("vq")
    shards.encode(tokenizer, photographs, tmp_path / "plain", progress=False)
    tokens = prepare(tokenizer, tmp_path / "plain", tmp_path)
    # the pieces are of two photographs: the second by name is held out
    keys = photographs.keys()
    counts = [
        sum("china" in key for key in keys),
        sum("coffee" in key for key in keys),
    ]
    assert [len(tokens[split]) for split in ("train", "held_out")] == counts


def test_a_size_that_the_tokenizer_cannot_take_is_refused(photographs, tiny_tokenizer, tmp_path):
    with pytest.raises(DataError, match="multiple of 8"):
        prepare(tiny_tokenizer("vq"), photographs, tmp_path, size=30)


@pytest.mark.parametrize("count", [10, 240])
def test_images_have_the_two_sides_that_the_tokenizer_names(count, tmp_path):
    sizes = {"channels": 8, "multipliers": [1], "num_res_blocks": 1, "patch": 8}
    tokenizer = Tokenizer(
        ConvEncoder(dim=3, **sizes),
        FSQ((5, 5, 5)),
        ConvDecoder(dim=3, **sizes),
        image=ImagePolicy(size=(64, 32)),
    ).eval()
    # few are cut to tiles, many are taken whole
    tokens = prepare(tokenizer, f"procedural:{count}:64", tmp_path)
    assert tokens["train"].encoded.size == (64, 32) and tokens["held_out"].streams[0].grid == (8, 4)


def test_one_image_is_too_few(tiny_tokenizer, tmp_path):
    with pytest.raises(DataError, match="at least two"):
        prepare(tiny_tokenizer("vq"), "procedural:1", tmp_path)
