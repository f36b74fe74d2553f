"""Golden pixels of every image mode, and every way in which an image can be bad."""

import contextlib
import io
import os
import resource
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vistok.errors import ImageError
from vistok.spec import ImagePolicy
from vistok.tokenizer.images import read_image

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def encoded(image, suffix="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, suffix, **options)
    return stream.getvalue()


def pixels(source, policy=None):
    image = read_image(source, policy)
    assert image.mode == "RGB"
    return [tuple(int(v) for v in p) for p in np.asarray(image).reshape(-1, 3)]


def row(mode, values):
    image = Image.new(mode, (len(values), 1))
    for x, value in enumerate(values):
        image.putpixel((x, 0), value)
    return image


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, bit_depth, colour_type, raw, extra=()):
    """A PNG made by hand: what Pillow cannot write."""
    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in chunks)


def test_rgb_is_left_alone():
    image = row("RGB", [RED, (1, 2, 3)])
    assert read_image(image) is image
    assert pixels(encoded(image)) == [RED, (1, 2, 3)]


def test_grey_becomes_three_equal_channels():
    assert pixels(encoded(row("L", [0, 7, 255]))) == [BLACK, (7, 7, 7), WHITE]


def test_one_bit_is_black_and_white():
    assert pixels(encoded(row("1", [0, 1]))) == [BLACK, WHITE]


def test_palette_gives_its_colours():
    image = row("P", [0, 1])
    image.putpalette([*RED, *BLUE])
    assert pixels(encoded(image)) == [RED, BLUE]


def test_transparent_palette_entries_show_the_background():
    image = row("P", [0, 1])
    image.putpalette([*RED, *BLUE])
    assert pixels(encoded(image, transparency=0)) == [WHITE, BLUE]
    assert pixels(encoded(image, transparency=bytes([255, 0]))) == [RED, WHITE]
    assert pixels(encoded(image, "GIF", transparency=1)) == [RED, WHITE]


def test_hidden_colours_under_zero_alpha_never_show():
    image = row("RGBA", [(*RED, 0), (*RED, 255), (0, 0, 0, 128)])
    assert pixels(encoded(image)) == [WHITE, RED, (127, 127, 127)]
    assert pixels(encoded(image), ImagePolicy(background=GREEN)) == [GREEN, RED, (0, 127, 0)]


def test_grey_with_alpha_is_composited():
    assert pixels(encoded(row("LA", [(9, 0), (9, 255)]))) == [WHITE, (9, 9, 9)]


def test_colour_keys_of_grey_and_rgb_are_transparent():
    assert pixels(encoded(row("L", [5, 6]), transparency=5)) == [WHITE, (6, 6, 6)]
    assert pixels(encoded(row("RGB", [RED, BLUE]), transparency=RED)) == [WHITE, BLUE]


def test_sixteen_bit_grey_is_rescaled_not_clipped():
    image = Image.fromarray(np.array([[0, 257, 32768, 65535]], np.uint16))
    assert pixels(encoded(image)) == [BLACK, (1, 1, 1), (128, 128, 128), WHITE]
    assert pixels(encoded(image, "TIFF")) == [BLACK, (1, 1, 1), (128, 128, 128), WHITE]


def test_sixteen_bit_colour_key_is_transparent():
    grey = png(2, 1, 16, 0, b"\x00" + struct.pack(">HH", 1000, 65535), [(b"tRNS", struct.pack(">H", 1000))])
    assert pixels(grey, ImagePolicy(background=BLUE)) == [BLUE, WHITE]
    colour = png(
        2,
        1,
        16,
        2,
        b"\x00" + struct.pack(">6H", 0, 0, 65535, 65535, 0, 0),
        [(b"tRNS", struct.pack(">3H", 0, 0, 65535))],
    )
    assert pixels(colour) == [WHITE, RED]


def test_sixteen_bit_rgb_is_rescaled():
    assert pixels(png(1, 1, 16, 2, b"\x00" + struct.pack(">3H", 65535, 32768, 0))) == [(255, 128, 0)]


def test_cmyk_becomes_rgb():
    (colour,) = pixels(encoded(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF"))
    assert colour == RED
    (colour,) = pixels(encoded(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "JPEG", quality=100))
    assert np.allclose(colour, RED, atol=3)


def test_float_tiff_in_zero_one_is_scaled():
    image = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert pixels(encoded(image, "TIFF")) == [BLACK, (128, 128, 128), WHITE]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.1, 255.0])
def test_float_pixels_out_of_range_are_refused(bad):
    image = Image.fromarray(np.array([[0.0, bad]], np.float32))
    with pytest.raises(ImageError, match=r"NaN or infinite|\[0, 1\]"):
        read_image(encoded(image, "TIFF"))


def test_integers_of_unknown_range_are_refused():
    with pytest.raises(ImageError, match="32-bit"):
        read_image(encoded(Image.fromarray(np.array([[0, 70000]], np.int32)), "TIFF"))


def test_the_first_frame_of_an_animation_is_read():
    frames = [Image.new("RGB", (2, 2), colour) for colour in (RED, BLUE)]
    for suffix in ("GIF", "PNG", "WEBP"):
        options = {"lossless": True} if suffix == "WEBP" else {}
        data = encoded(frames[0], suffix, save_all=True, append_images=frames[1:], **options)
        assert pixels(data)[0] == RED, suffix


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright_once(orientation):
    upright = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10)
    back = {6: 8, 8: 6}.get(orientation, orientation)
    methods = {m: getattr(Image.Transpose, n) for m, n in enumerate(
        ["FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"], 2
    )}  # fmt: skip
    stored = upright if orientation == 1 else upright.transpose(methods[back])
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(stored, "PNG", exif=exif)
    first = read_image(data)
    assert np.array_equal(np.asarray(first), np.asarray(upright))
    assert np.array_equal(np.asarray(read_image(first)), np.asarray(upright))


def test_a_turned_palette_image_keeps_its_transparency():
    image = row("P", [0, 1])
    image.putpalette([*RED, *BLUE])
    exif = Image.Exif()
    exif[274] = 6
    turned = read_image(encoded(image, transparency=0, exif=exif))
    assert turned.size == (1, 2) and turned.getpixel((0, 0)) == WHITE


def test_broken_metadata_does_not_spoil_good_pixels():
    assert pixels(encoded(row("RGB", [RED]), exif=b"Exif\x00\x00nonsense")) == [RED]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 255]], np.uint8), [BLACK, WHITE]),
        (np.array([[[3], [4]]], np.uint8), [(3, 3, 3), (4, 4, 4)]),
        (np.array([[[1, 2, 3]]], np.uint8), [(1, 2, 3)]),
        (np.array([[[1, 2, 3, 0]]], np.uint8), [WHITE]),
        (np.array([[[9, 0]]], np.uint8), [WHITE]),
        (np.array([[0, 32768, 65535]], np.uint16), [BLACK, (128, 128, 128), WHITE]),
        (np.array([[[0.0, 0.5, 1.0]]]), [(0, 128, 255)]),
        (np.array([[0.0, 1.0]], np.float16), [BLACK, WHITE]),
        (np.array([[False, True]]), [BLACK, WHITE]),
        (np.zeros((2, 4, 3), np.uint8)[:, ::2], [BLACK] * 4),
    ],
)
def test_arrays_are_read_by_their_type(array, expected):
    assert pixels(array) == expected


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 8), np.uint8), "channels last"),
        (np.zeros((4,), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((2, 2), np.int32), "int32"),
        (np.full((2, 2), 200.0), r"\[0, 1\]"),
        (np.full((2, 2), np.nan), "NaN"),
    ],
)
def test_arrays_of_unclear_meaning_are_refused(array, message):
    with pytest.raises(ImageError, match=message):
        read_image(array)


def test_a_truncated_jpeg_is_refused(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, "JPEG")
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"cut\.jpg is damaged or truncated"):
        read_image(path)


def test_every_flipped_bit_in_png_pixel_data_is_noticed():
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)))
    start = data.index(b"IDAT") + 4
    for position in range(start, len(data) - 12, 7):
        damaged = bytearray(data)
        damaged[position] ^= 1
        with pytest.raises(ImageError):
            read_image(bytes(damaged))


def test_a_bomb_is_refused_by_its_header_before_decoding():
    huge = png(20000, 20000, 8, 2, b"")
    with pytest.raises(ImageError, match=r"20000 x 20000|too large|exceeds"):
        read_image(huge)
    with pytest.raises(ImageError, match=r"9 x 9 pixels, more than max_pixels=80"):
        read_image(encoded(Image.new("RGB", (9, 9))), ImagePolicy(max_pixels=80))
    with pytest.raises(ImageError, match="max_pixels"):
        read_image(np.zeros((9, 9), np.uint8), ImagePolicy(max_pixels=80))


def test_a_bomb_by_its_data_costs_no_more_than_its_size_says():
    """A gigabyte of zeros, packed into a megabyte, behind a header that says 8 x 8."""
    pack = zlib.compressobj(9)
    packed = b"".join(pack.compress(bytes(1 << 20)) for _ in range(1024)) + pack.flush()
    for kind, data in (("pixels", png(8, 8, 8, 2, b"")), ("text", png(8, 8, 8, 2, (b"\0" + bytes(24)) * 8))):
        if kind == "pixels":
            data = data.replace(chunk(b"IDAT", zlib.compress(b"")), chunk(b"IDAT", packed))
        else:
            data = data.replace(chunk(b"IEND", b""), chunk(b"zTXt", b"k\0\0" + packed) + chunk(b"IEND", b""))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with contextlib.suppress(ImageError):
            assert read_image(data).size == (8, 8)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10, kind


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (20000, 1), (1, 20000)])
@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "TIFF"])
def test_thin_images_are_read_in_their_size(size, suffix):
    image = read_image(encoded(Image.new("RGB", size, RED), suffix))
    assert image.size == size and np.allclose(image.getpixel((0, 0)), RED, atol=3)


def test_pipes_and_devices_are_refused_without_waiting_for_them(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(ImageError, match="not a regular file"):
            read_image(tmp_path / name)


def test_paths_that_are_no_images_are_told_apart(tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "loop.png").symlink_to("loop.png")
    cases = {
        "text.jpg": "known format",
        "empty.png": "known format",
        "missing.png": "does not exist",
        ".": "not a regular file",
        "x" * 300: "cannot be opened",
        "loop.png": "cannot be opened",
    }
    for name, reason in cases.items():
        with pytest.raises(ImageError, match=reason) as caught:
            read_image(str(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match="not a path"):
        read_image("a\0b")


def test_a_newline_in_a_name_does_not_break_the_line(tmp_path):
    with pytest.raises(ImageError) as caught:
        read_image(tmp_path / "a\nb.png")
    assert "\n" not in str(caught.value)


def test_vector_formats_are_not_opened():
    with pytest.raises(ImageError, match="known format"):
        read_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")


def test_what_is_no_image_at_all_is_named():
    with pytest.raises(ImageError, match="int is not an image"):
        read_image(3)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_damage_anywhere_lets_only_image_errors_out(suffix, data):
    original = encoded(Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)), suffix)
    damaged = bytearray(original[: data.draw(st.integers(0, len(original)))])
    for _ in range(3):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert read_image(bytes(damaged)).mode == "RGB"
    except ImageError as error:
        assert "\n" not in str(error)
