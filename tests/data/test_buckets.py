from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from vistok.data import Buckets, ImageFiles
from vistok.errors import DataError
from vistok.spec import ImagePolicy


@settings(max_examples=50, deadline=None)
@given(
    area=st.integers(64, 1 << 18),
    multiple=st.sampled_from([1, 8, 16, 32]),
    ratio=st.sampled_from([1, 1.5, 2, 4, 7.3]),
)
def test_every_size_keeps_to_area_multiple_and_ratio_in_both_directions(area, multiple, ratio):
    if multiple == 1:
        area = min(area, 4096)
    if area < multiple * multiple:
        return
    sizes = Buckets(area, multiple, ratio).sizes(multiple)
    assert len(set(sizes)) == len(sizes)
    assert {(w, h) for h, w in sizes} == set(sizes)
    for h, w in sizes:
        assert h * w <= area and h % multiple == 0 and w % multiple == 0
        assert max(h, w) <= Fraction(ratio) * min(h, w)
        for larger in ((h + multiple, w), (h, w + multiple), (h + multiple, w + multiple)):
            assert larger[0] * larger[1] > area or max(larger) > Fraction(ratio) * min(larger)


def test_the_sizes_of_256_squared_in_sixteens():
    sizes = Buckets(65536, 0, 2).sizes(16)
    assert (256, 256) in sizes and (192, 336) in sizes and (336, 192) in sizes
    assert [w / h for h, w in sizes] == sorted(w / h for h, w in sizes)


@given(width=st.integers(1, 5000), height=st.integers(1, 5000))
@example(width=1, height=2)  # as near to 160 x 384 as to 192 x 320, of equal areas
@settings(max_examples=100, deadline=None)
def test_an_image_goes_to_the_nearest_ratio_and_its_mirror_to_the_mirrored_size(width, height):
    buckets = Buckets(65536, 32)
    chosen = buckets.size_for(width, height, 16)
    assert buckets.size_for(height, width, 16) == chosen[::-1]

    def distance(size):
        ratio = Fraction(width * size[0], height * size[1])
        return max(ratio, 1 / ratio)

    assert distance(chosen) == min(map(distance, buckets.sizes(16)))


def test_images_are_covered_cut_in_the_centre_and_antialiased(tmp_path):
    stripes = np.zeros((400, 1000, 3), np.uint8)
    stripes[:, ::2] = 255
    stripes[:, :200] = stripes[:, -200:] = (255, 0, 0)
    Image.fromarray(stripes).save(tmp_path / "wide.png")
    Image.new("RGB", (100, 100)).save(tmp_path / "square.png")
    images = ImageFiles([tmp_path / "wide.png", tmp_path / "square.png"], multiple_of=16)
    images = images.bucketed(Buckets.parse("64x64,16,2"))
    wide, square = images[0]["image"], images[1]["image"]
    assert wide.shape == (3, 48, 80) and square.shape == (3, 64, 64)
    assert abs(wide[:, 8:-8, 8:-8].mean()) < 0.02 and wide[:, 8:-8, 8:-8].abs().max() < 0.1
    assert wide[0, 20, 2] > 0.9 and wide[1, 20, 2] < -0.9
    assert wide[0, 20, -3] > 0.9 and wide[1, 20, -3] < -0.9


def test_the_buckets_stand_in_for_the_size_of_the_policy():
    policy = Buckets(4096).policy_for(
        ImagePolicy(size=(32, 32), fit="pad", interpolation="lanczos"), 10, 10, 16
    )
    assert (policy.size, policy.fit, policy.interpolation) == ((64, 64), "crop", "lanczos")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("65536", Buckets(65536)),
        ("256x256,32", Buckets(65536, 32)),
        ("256x128,0,2.5", Buckets(32768, 0, 2.5)),
    ],
)
def test_buckets_are_read_from_text(text, expected):
    assert Buckets.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "x", "256x", "1x2x3", "-1x-1", "9,9,9,9", "9,a", "256,,2", "64,8,nan", "64,8,0.5", "64,-8"]
)
def test_text_that_is_no_bucket_is_refused(text):
    with pytest.raises(DataError):
        Buckets.parse(text)


@pytest.mark.parametrize(
    ("buckets", "reason"),
    [
        (Buckets(65536, 24), "demands multiples of 16"),
        (Buckets(100), "holds no size"),
        (Buckets(1 << 50, 16), "more than"),
    ],
)
def test_buckets_that_a_tokenizer_cannot_take_are_named(buckets, reason):
    with pytest.raises(DataError, match=reason):
        buckets.sizes(16)
