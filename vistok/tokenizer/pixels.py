"""Pixels of any kind as 8-bit RGB."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vistok.errors import ImageError
from vistok.spec import ImagePolicy

_TIFF_BITS, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


def printable(name: str) -> str:
    """A name as error messages show it: on one line, whatever a file system permits."""
    return name if name.isprintable() else ascii(name)


def check_num_pixels(width: int, height: int, policy: ImagePolicy, name: str) -> None:
    """Refuses images without pixels and with more than ``policy.max_pixels``.

    Raises:
        ImageError: as said.
    """
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels ({width} x {height}): remove it")
    if width * height > policy.max_pixels:
        raise ImageError(
            f"{name} has {width} x {height} pixels, more than max_pixels={policy.max_pixels}: shrink it or raise ImagePolicy.max_pixels"
        )


def to_rgb(image: Image.Image, policy: ImagePolicy, name: str) -> Image.Image:
    """Any colour mode as RGB, composited on the policy's background where it is transparent.

    Raises:
        ImageError: a mode that Pillow cannot convert, or values out of range (float, 32-bit integers).
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        image = from_array(np.asarray(image), policy, name)
    elif image.mode.startswith("I"):
        image = _from_wide_grey(image, policy, name)
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        # Pillow reads 16-bit RGB as 8-bit, but keeps the 16-bit transparent colour
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    try:
        if not image.has_transparency_data:
            return image.convert("RGB")
        layer = image.convert("RGBA")
    except (ValueError, OSError) as error:
        raise ImageError(
            f"{name} has colour mode {image.mode}, which has no fixed RGB: convert it to RGB first"
        ) from error
    opaque = Image.new("RGB", layer.size, policy.background)
    opaque.paste(layer, mask=layer.getchannel("A"))
    return opaque


def _from_wide_grey(image: Image.Image, policy: ImagePolicy, name: str) -> Image.Image:
    """16-bit grey (modes I;16 and relatives), and mode I where it holds 16-bit values, as 8-bit grey or grey and alpha."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if values.min() < 0 or values.max() > 65535 or (image.mode == "I" and tags):
        raise ImageError(
            f"{name} has 32-bit integer pixels, whose range is not stated: convert it to 8 or 16 bits"
        )
    values = values.astype(np.uint32)
    limit = (1 << int(tags.get(_TIFF_BITS, (16,))[0])) - 1 if tags else 65535
    grey = np.minimum((values * 255 + limit // 2) // limit, 255).astype(np.uint8)
    if tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    key = image.info.get("transparency")
    if isinstance(key, int):
        alpha = np.where(values == key, 0, 255).astype(np.uint8)
        return Image.fromarray(np.stack([grey, alpha], axis=-1))
    return Image.fromarray(grey)


def from_array(array: NDArray[Any], policy: ImagePolicy, name: str) -> Image.Image:
    """An array (H, W) or (H, W, 1..4) as a PIL image of 8-bit grey or RGB, with alpha last where there are 2 or 4.

    Raises:
        ImageError: another shape, type or range.
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (2, 3, 4)):
        raise ImageError(
            f"{name} has shape {tuple(array.shape)}: arrays are (H, W) or (H, W, channels), channels last, 1 to 4 of them"
        )
    check_num_pixels(array.shape[1], array.shape[0], policy, name)
    return Image.fromarray(np.ascontiguousarray(_to_uint8(array, name)))


def _to_uint8(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return np.asarray(array, np.uint8)
    if array.dtype == np.bool_:
        bits: NDArray[np.uint8] = np.multiply(array, 255, dtype=np.uint8)
        return bits
    if array.dtype == np.uint16:
        scaled: NDArray[np.uint8] = ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
        return scaled
    if np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ImageError(f"{name} has NaN or infinite pixels: repair or remove it")
        if low < 0 or high > 1:
            raise ImageError(
                f"{name} has float pixels in [{low:g}, {high:g}]: float images must lie in [0, 1], rescale it"
            )
        rounded: NDArray[np.uint8] = np.floor(array.astype(np.float64) * 255 + 0.5).astype(np.uint8)
        return rounded
    raise ImageError(f"{name} has pixels of type {array.dtype}: pass uint8, uint16, bool, or float in [0, 1]")
