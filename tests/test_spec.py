import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vistok.errors import TokenizerError
from vistok.spec import FORMAT_VERSION, ImagePolicy, LatentSpec, StreamSpec, TokenizerSpec, index_dtype

SPEC = TokenizerSpec(
    name="t",
    kind="both",
    streams=(
        StreamSpec("pixel", "pixel", "VQ", 1024, 8, metric="cosine", factor=16),
        StreamSpec("semantic", "semantic", "FSQ", 1000, 4, levels=(8, 5, 5, 5), factor=28),
    ),
    image=ImagePolicy(size=(256, 320), fit="pad"),
    latents=LatentSpec(4, shift=(0.1, 0.2), scale=(1.0, 2.0)),
    metrics=({"psnr": 21.0, "protocol": "p"},),
)


def test_json_both_ways_is_equal_and_hashable_types_come_back():
    again = TokenizerSpec.from_json(SPEC.to_json())
    assert again == SPEC
    assert isinstance(again.streams[1].levels, tuple) and isinstance(again.image.size, tuple)


def test_the_spec_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPEC.name = "other"


def test_unknown_fields_missing_fields_and_future_versions_are_named():
    data = SPEC.to_json_data()
    with pytest.raises(TokenizerError, match="colour"):
        TokenizerSpec.from_json(json.dumps({**data, "colour": 1}))
    with pytest.raises(TokenizerError, match="kind"):
        TokenizerSpec.from_json(json.dumps({k: v for k, v in data.items() if k != "kind"}))
    with pytest.raises(TokenizerError, match="upgrade"):
        TokenizerSpec.from_json(json.dumps({**data, "format_version": FORMAT_VERSION + 1}))
    with pytest.raises(TokenizerError, match="not JSON"):
        TokenizerSpec.from_json("{")


def test_the_grid_follows_the_factor_of_each_stream():
    assert SPEC.streams[0].grid(256, 320) == (16, 20)
    assert SPEC.streams[1].grid(224, 280) == (8, 10)


@given(st.integers(min_value=1, max_value=1 << 62))
def test_the_index_type_is_the_smallest_that_holds_every_index(size):
    bits = int(index_dtype(size).removeprefix("uint"))
    assert size - 1 < 1 << bits
    assert bits == 8 or size - 1 >= 1 << (bits // 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"fit": "Pad"},
        {"interpolation": "bicubc"},
        {"size": 256},
        {"background": (0, 0, 300)},
        {"max_pixels": 0},
    ],
)
def test_a_misspelt_image_policy_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ImagePolicy(**wrong)
