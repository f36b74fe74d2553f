"""Reads any image as 8-bit RGB, or says in one line why not."""

from __future__ import annotations

import errno
import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vistok.errors import ImageError
from vistok.spec import ImagePolicy
from vistok.tokenizer.pixels import check_num_pixels, from_array, printable, to_rgb

ImageSource: TypeAlias = "str | Path | bytes | Image.Image | NDArray[Any]"

T = TypeVar("T")

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats that are tried on files; everything else that Pillow knows is a larger surface for attack than of use."""

SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".jp2",
    ".avif",
)
"""File names that are taken for images in folders and shards, lower case."""

_EXIF_ORIENTATION = 274
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# these say that the machine is short of something, not that the image is bad: a skipped image would hide them
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def read_image(
    source: ImageSource, policy: ImagePolicy | None = None, *, name: str | None = None
) -> Image.Image:
    """Reads an image as 8-bit RGB, turned upright, on the policy's background where it is transparent.

    Files: 16-bit grey is rescaled (not clipped); float TIFF must lie in [0, 1]; the first frame of an animation is read;
    colour profiles are ignored. Arrays: (H, W), (H, W, 1..4) as bool, uint8, uint16, or float in [0, 1]; 2 and 4 channels
    end in alpha. An RGB image in memory that needs no change is returned itself.

    Args:
        source: A path, the bytes of a file, a PIL image, or an array.
        policy: Background and the limit on pixels, which is checked before pixels are decoded.
        name: What error messages call the image; default: its path or kind.

    Raises:
        ImageError: missing, damaged, truncated, too large, of an unknown format, or with values out of range.
    """
    policy = policy or ImagePolicy()
    name = printable(name) if name else None
    if isinstance(source, Image.Image):
        name = name or printable(str(getattr(source, "filename", ""))) or f"the {source.mode} image"
        return _finish(source, policy, name)
    if isinstance(source, np.ndarray):
        name = name or "the array"
        return to_rgb(from_array(source, policy, name), policy, name)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), policy, name or f"image data of {len(source)} bytes")
    if isinstance(source, (str, Path)):
        return _read_file(Path(source), policy, name or printable(str(source)))
    raise ImageError(
        f"{name or type(source).__name__} is not an image: pass a path, bytes, a PIL image or an array (H, W, 3)"
    )


def _read_file(path: Path, policy: ImagePolicy, name: str) -> Image.Image:
    try:
        if path.exists() and not path.is_file():
            raise ImageError(f"{name} is not a regular file: give the path of an image")
        stream = path.open("rb")
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist: check the path") from error
    except OSError as error:
        if error.errno in _SHORTAGES:
            raise
        raise ImageError(f"{name} cannot be opened: {error.strerror or error}") from error
    except ValueError as error:  # a null character in the path
        raise ImageError(f"{name} is not a path: {error}") from error
    with stream:
        return _decode(stream, policy, name)


def _decode(stream: BinaryIO, policy: ImagePolicy, name: str) -> Image.Image:
    image = _open(stream, policy, name)
    if image.format == "PNG":
        # Pillow decodes past wrong checksums of pixel data; verify() reads them, and uses the image up
        _guard(image.verify, name)
        image = _open(stream, policy, name)
    return _finish(image, policy, name)


def _open(stream: BinaryIO, policy: ImagePolicy, name: str) -> Image.Image:
    stream.seek(0)
    return _guard(lambda: Image.open(stream, formats=_formats()), name)


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(known for known in FORMATS if known in Image.OPEN)


def _finish(image: Image.Image, policy: ImagePolicy, name: str) -> Image.Image:
    check_num_pixels(image.width, image.height, policy, name)
    _guard(image.load, name)
    return to_rgb(_upright(image), policy, name)


def _guard(action: Callable[[], T], name: str) -> T:
    try:
        return action()
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name} is not an image in a known format, or damaged at its start: vistok reads {', '.join(FORMATS)}"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{name} is too large: {_one_line(error)}; shrink it or raise PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except Exception as error:  # decoders of damaged files raise whatever they stumble over
        if isinstance(error, OSError) and error.errno in _SHORTAGES:
            raise
        raise ImageError(
            f"{name} is damaged or truncated: {_one_line(error)}; fetch it again or remove it"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # unreadable metadata is no reason to refuse good pixels
        return image
    method = _TRANSPOSE.get(orientation)
    if method is None:
        return image
    turned = image.transpose(method)
    # metadata stays behind, or whoever reads the result would turn it again
    turned.info = {key: value for key, value in image.info.items() if key == "transparency"}
    return turned
