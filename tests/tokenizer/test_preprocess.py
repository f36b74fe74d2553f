"""Sizes by policy, values by type, and the way back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vistok.errors import ImageError
from vistok.spec import ImagePolicy
from vistok.tokenizer.preprocess import check_pixels, fit_image, preprocess, to_pil, to_tensor


def picture(width, height):
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x % 256, y % 256, (x + y) % 256], -1).astype(np.uint8))


@pytest.mark.parametrize(
    ("fit", "size", "expected"),
    [
        ("crop", (37, 50), (32, 48)),
        ("crop", (5, 50), (16, 160)),
        ("crop", (1, 1), (16, 16)),
        ("crop", (20000, 1), (320000, 16)),
        ("resize", (37, 50), (32, 48)),
        ("resize", (40, 41), (48, 48)),
        ("resize", (1, 20000), (16, 20000)),
        ("pad", (37, 50), (48, 64)),
        ("pad", (1, 16), (16, 16)),
        ("refuse", (32, 48), (32, 48)),
    ],
)
def test_own_size_goes_to_the_multiples_that_the_fit_says(fit, size, expected):
    assert fit_image(picture(*size), ImagePolicy(fit=fit), 16).size == expected


@pytest.mark.parametrize("fit", ["crop", "resize", "pad"])
@pytest.mark.parametrize("size", [(64, 32), (10, 10), (1, 300), (300, 1), (1, 1), (200, 100)])
def test_fixed_size_is_reached_from_any_size(fit, size):
    assert fit_image(picture(*size), ImagePolicy(size=(32, 64), fit=fit), 16).size == (64, 32)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    multiple=st.sampled_from([1, 2, 7, 16]),
    fit=st.sampled_from(["crop", "resize", "pad"]),
)
def test_every_size_ends_on_multiples(width, height, multiple, fit):
    out = fit_image(picture(width, height), ImagePolicy(fit=fit), multiple)
    assert out.width % multiple == 0 and out.height % multiple == 0 and min(out.size) >= multiple
    if fit == "crop" and min(width, height) >= multiple:
        assert out.width <= width and out.height <= height


def test_crop_takes_the_centre_unresampled():
    source = picture(20, 18)
    assert np.array_equal(fit_image(source, ImagePolicy(), 16), np.asarray(source)[1:17, 2:18])
    assert np.array_equal(fit_image(source, ImagePolicy(size=(18, 16)), 1), np.asarray(source)[:, 2:18])


def test_crop_to_a_fixed_size_resizes_the_short_side():
    halves = np.zeros((40, 80, 3), np.uint8)
    halves[:, 40:] = 255
    out = np.asarray(fit_image(Image.fromarray(halves), ImagePolicy(size=(20, 20))))
    assert (out[:, :8] == 0).all() and (out[:, 12:] == 255).all()


def test_downscaling_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    out = np.asarray(fit_image(Image.fromarray(stripes), ImagePolicy(size=(16, 16))))
    assert abs(out[4:12, 4:12].astype(int) - 127).max() <= 2


def test_padding_lies_right_and_below_in_the_background_colour():
    out = np.asarray(fit_image(picture(3, 2), ImagePolicy(fit="pad", background=(9, 8, 7)), 4))
    assert np.array_equal(out[:2, :3], np.asarray(picture(3, 2)))
    assert (out[2:] == (9, 8, 7)).all() and (out[:, 3:] == (9, 8, 7)).all()


def test_padding_to_a_fixed_size_shrinks_but_never_enlarges():
    out = np.asarray(fit_image(Image.new("RGB", (40, 20)), ImagePolicy(size=(20, 20), fit="pad")))
    assert (out[:10] == 0).all() and (out[10:] == 255).all()
    out = np.asarray(fit_image(Image.new("RGB", (4, 4)), ImagePolicy(size=(8, 8), fit="pad")))
    assert (out == 0).all(-1).sum() == 16


def test_refusal_names_both_sizes():
    with pytest.raises(ImageError, match=r"cat is 50 x 37 .* multiples of 16"):
        fit_image(picture(37, 50), ImagePolicy(fit="refuse"), 16, name="cat")
    with pytest.raises(ImageError, match="64 x 32"):
        fit_image(picture(37, 50), ImagePolicy(size=(64, 32), fit="refuse"), 16)
    with pytest.raises(ImageError, match="multiples of 16"):
        fit_image(picture(8, 8), ImagePolicy(fit="refuse"), 16)


def test_a_size_that_the_factor_does_not_divide_is_refused():
    with pytest.raises(ImageError, match="30 x 32 is not a positive multiple of 16"):
        fit_image(picture(64, 64), ImagePolicy(size=(30, 32)), 16)


def test_enlarging_past_the_pixel_limit_is_refused():
    with pytest.raises(ImageError, match="max_pixels"):
        fit_image(picture(20000, 1), ImagePolicy(max_pixels=100_000), 16)


def test_all_256_values_survive_the_round_trip():
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)[..., None].repeat(3, -1))
    tensor = to_tensor(image)
    assert tensor.shape == (3, 16, 16) and tensor.dtype == torch.float32 and tensor.is_contiguous()
    assert tensor.min() == -1 and tensor.max() == 1
    assert np.array_equal(np.asarray(to_pil(tensor)), np.asarray(image))


def test_to_pil_rounds_and_clamps():
    values = torch.tensor([-3.0, 3.0, 0.0]).view(3, 1, 1)
    assert to_pil(values).getpixel((0, 0)) == (0, 255, 128)
    with pytest.raises(ImageError, match="NaN"):
        to_pil(torch.full((3, 1, 1), float("nan")))
    with pytest.raises(ImageError, match="one image"):
        to_pil(torch.zeros(1, 3, 2, 2))


def test_kinds_of_input_agree(tmp_path):
    image = picture(32, 16)
    image.save(tmp_path / "a.png")
    array = np.asarray(image)
    expected = to_tensor(image)[None]
    kinds = [
        image,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        (tmp_path / "a.png").read_bytes(),
        array,
        torch.from_numpy(array.copy()).permute(2, 0, 1),
        expected[0],
        expected,
    ]
    for kind in kinds:
        assert torch.equal(preprocess(kind, multiple_of=16), expected)
    assert torch.equal(preprocess(kinds, multiple_of=16), expected.repeat(len(kinds), 1, 1, 1))


def test_images_of_several_sizes_need_a_size():
    images = [picture(32, 32), picture(48, 32)]
    with pytest.raises(ImageError, match=r"32 x 32, 32 x 48.*ImagePolicy.size, or pass them one at a time"):
        preprocess(images, multiple_of=16)
    assert preprocess(images, ImagePolicy(size=(16, 16)), 16).shape == (2, 3, 16, 16)


def test_an_empty_list_is_refused():
    with pytest.raises(ImageError, match="at least one"):
        preprocess([])


def test_the_bad_one_of_a_list_is_named(tmp_path):
    with pytest.raises(ImageError, match="image 1 has shape"):
        preprocess([picture(8, 8), torch.zeros(1, 8, 8)])
    with pytest.raises(ImageError, match=r"gone\.png does not exist"):
        preprocess([picture(8, 8), tmp_path / "gone.png"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 2.0, -1.5])
def test_tensors_out_of_range_are_refused(bad):
    pixels = torch.zeros(1, 3, 16, 16)
    pixels[0, 1, 2, 3] = bad
    for refuse in (preprocess, check_pixels):
        with pytest.raises(ImageError, match=r"NaN|in \[-1, 1\]"):
            refuse(pixels)


@pytest.mark.parametrize("shape", [(3, 16), (1, 4, 16, 16), (0, 3, 16, 16), (1, 3, 0, 16), (16, 16, 3)])
def test_tensors_of_another_shape_are_refused(shape):
    with pytest.raises(ImageError, match="shape"):
        preprocess(torch.zeros(shape))


def test_float_tensors_must_fit_and_integers_are_refused():
    with pytest.raises(ImageError, match="multiples of 16"):
        preprocess(torch.zeros(3, 20, 16), multiple_of=16)
    with pytest.raises(ImageError, match="the policy wants 32 x 32"):
        preprocess(torch.zeros(3, 16, 16), ImagePolicy(size=(32, 32)))
    with pytest.raises(ImageError, match="int64"):
        preprocess(torch.zeros(3, 16, 16, dtype=torch.int64))


def test_half_precision_just_outside_is_clamped():
    pixels = preprocess(torch.full((3, 8, 8), 1.0078, dtype=torch.bfloat16))
    assert pixels.dtype == torch.float32 and pixels.max() == 1
