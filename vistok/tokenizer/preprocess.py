"""From images to tensors (B, 3, H, W) in [-1, 1], by a stated policy, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vistok.errors import ImageError
from vistok.spec import ImagePolicy
from vistok.tokenizer.images import ImageSource, read_image
from vistok.tokenizer.pixels import check_num_pixels, printable

Images: TypeAlias = "ImageSource | Tensor | Sequence[ImageSource | Tensor]"

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}
# half-precision pixels of [-1, 1] may round this far outside
_TOLERANCE = 1e-2


def preprocess(images: Images, policy: ImagePolicy | None = None, multiple_of: int = 1) -> Tensor:
    """One image or several -> float32 (B, 3, H, W) in [-1, 1].

    Paths, bytes, PIL images and arrays go through ``read_image`` and ``fit_image``; so do uint8 tensors (3, H, W) or
    (B, 3, H, W). Float tensors are taken as pixels in [-1, 1] as they are: their size must fit already.

    Args:
        images: One image, a tensor of several, or a sequence of images.
        policy: Sizes, background, interpolation.
        multiple_of: What both sides must be divisible by: the tokenizer's downsampling factor.

    Raises:
        ImageError: an image that cannot be read or fitted, values that are not finite or out of range, or images that
            differ in size after fitting.
    """
    policy = policy or ImagePolicy()
    if not isinstance(images, (list, tuple)):
        return _from_one(images, policy, multiple_of, None)
    if not images:
        raise ImageError("there is no image in the list: pass at least one")
    tensors = [_from_one(image, policy, multiple_of, i) for i, image in enumerate(images)]
    sizes = sorted({(int(t.shape[-2]), int(t.shape[-1])) for t in tensors})
    if len(sizes) > 1:
        listed = ", ".join(f"{h} x {w}" for h, w in sizes[:4]) + (", ..." if len(sizes) > 4 else "")
        raise ImageError(
            f"the images differ in size (H x W: {listed}): set ImagePolicy.size, or pass them one at a time"
        )
    return torch.cat(tensors)


def _from_one(image: Any, policy: ImagePolicy, multiple_of: int, position: int | None) -> Tensor:
    if isinstance(image, (str, Path)):
        name: str | None = str(image)
    else:
        name = None if position is None else f"image {position}"
    if isinstance(image, Tensor):
        return _from_tensor(image, policy, multiple_of, name or "the tensor")
    return to_tensor(fit_image(read_image(image, policy, name=name), policy, multiple_of, name=name))[None]


def _from_tensor(pixels: Tensor, policy: ImagePolicy, multiple_of: int, name: str) -> Tensor:
    if pixels.ndim == 3:
        pixels = pixels[None]
    if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.numel() == 0:
        raise ImageError(
            f"{name} has shape {tuple(pixels.shape)}: image tensors are (3, H, W) or (B, 3, H, W), not empty"
        )
    if pixels.dtype == torch.uint8:
        arrays = pixels.permute(0, 2, 3, 1).cpu().numpy()
        fitted = [fit_image(read_image(a, policy, name=name), policy, multiple_of, name=name) for a in arrays]
        return torch.stack([to_tensor(image) for image in fitted]).to(pixels.device)
    check_pixels(pixels, multiple_of, name)
    size = (int(pixels.shape[2]), int(pixels.shape[3]))
    if policy.size is not None and size != tuple(policy.size):
        wanted = f"{policy.size[0]} x {policy.size[1]}"
        raise ImageError(
            f"{name} is {size[0]} x {size[1]}, the policy wants {wanted}: resize it, or pass uint8 pixels or PIL images"
        )
    return pixels.float().clamp(-1, 1)


def check_pixels(pixels: Tensor, multiple_of: int = 1, name: str = "the tensor") -> None:
    """Refuses what a tokenizer must not see: (B, 3, H, W) of another shape, type or range.

    Raises:
        ImageError: not a float tensor (B, 3, H, W) with sides divisible by ``multiple_of`` and values in [-1, 1].
    """
    if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.numel() == 0:
        raise ImageError(f"{name} has shape {tuple(pixels.shape)}: image batches are (B, 3, H, W), not empty")
    if not pixels.is_floating_point():
        raise ImageError(
            f"{name} has type {pixels.dtype}: pass float pixels in [-1, 1], or uint8 to preprocess()"
        )
    height, width = int(pixels.shape[2]), int(pixels.shape[3])
    if height % multiple_of or width % multiple_of:
        raise ImageError(
            f"{name} is {height} x {width}: both sides must be multiples of {multiple_of}; crop or resize it"
        )
    low, high = (float(bound) for bound in torch.aminmax(pixels.detach()))
    if not (low >= -1 - _TOLERANCE and high <= 1 + _TOLERANCE):  # also false where a bound is NaN
        what = f"values in [{low:g}, {high:g}]" if low == low and high == high else "NaN values"
        raise ImageError(
            f"{name} has {what}: pixels must be finite and in [-1, 1]; scale 8-bit pixels by x / 127.5 - 1"
        )


def fit_image(
    image: Image.Image, policy: ImagePolicy | None = None, multiple_of: int = 1, *, name: str | None = None
) -> Image.Image:
    """Brings an RGB image to a size that the policy permits: ``policy.size``, or any multiple of ``multiple_of``.

    ``crop`` cuts the centre of the largest permitted size, enlarging only where the short side is below it; ``resize``
    stretches to ``size`` or to the nearest multiples; ``pad`` adds background on the right and below, after shrinking
    (never enlarging) what exceeds ``size``; ``refuse`` raises unless the size fits.

    Raises:
        ImageError: refused by the policy; a ``size`` that is not a multiple; a result above ``policy.max_pixels``.
    """
    policy = policy or ImagePolicy()
    name = printable(name or str(getattr(image, "filename", "")) or "the image")
    width, height = _target(image.size, policy, multiple_of, name)
    if (width, height) == image.size:
        return image
    check_num_pixels(width, height, policy, name)
    if policy.fit == "pad":
        return _pad(image, width, height, policy)
    if policy.fit == "resize":
        return image.resize((width, height), _FILTERS[policy.interpolation])
    return _crop(image, width, height, policy)


def _target(size: tuple[int, int], policy: ImagePolicy, multiple_of: int, name: str) -> tuple[int, int]:
    """The (width, height) that an image of ``size`` (width, height) comes to have."""
    if multiple_of < 1:
        raise ImageError(f"multiple_of is {multiple_of}: it must be at least 1")
    m, short = multiple_of, min(size)
    if policy.size is not None:
        height, width = policy.size
        if height % m or width % m or height < 1 or width < 1:
            raise ImageError(
                f"ImagePolicy.size {height} x {width} is not a positive multiple of {m}, the downsampling factor"
            )
        fitted = (width, height)
    elif policy.fit == "resize":
        fitted = (max(1, (size[0] + m // 2) // m) * m, max(1, (size[1] + m // 2) // m) * m)
    elif policy.fit == "pad":
        fitted = (-(-size[0] // m) * m, -(-size[1] // m) * m)
    elif short < m:  # the short side becomes m, the other keeps the aspect
        fitted = (size[0] // short * m, size[1] // short * m) if policy.fit == "crop" else (m, m)
    else:
        fitted = (size[0] // m * m, size[1] // m * m)
    if policy.fit == "refuse" and fitted != size:
        wanted = f"{fitted[1]} x {fitted[0]}" if policy.size is not None else f"multiples of {m}"
        raise ImageError(
            f"{name} is {size[1]} x {size[0]} (H x W), fit='refuse' permits {wanted}: resize it, or choose another fit"
        )
    return fitted


def _crop(image: Image.Image, width: int, height: int, policy: ImagePolicy) -> Image.Image:
    scale = max(width / image.width, height / image.height)
    if scale == 1 or (policy.size is None and scale < 1):
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))
    # resize and cut in one step: the largest centred box of the target's aspect, so that no long strip is ever made
    box_width, box_height = min(width / scale, image.width), min(height / scale, image.height)
    left_edge, top_edge = (image.width - box_width) / 2, (image.height - box_height) / 2
    box = (left_edge, top_edge, left_edge + box_width, top_edge + box_height)
    return image.resize((width, height), _FILTERS[policy.interpolation], box=box)


def _pad(image: Image.Image, width: int, height: int, policy: ImagePolicy) -> Image.Image:
    shrink = min(1.0, width / image.width, height / image.height)
    if shrink < 1:
        size = (
            max(1, min(width, round(image.width * shrink))),
            max(1, min(height, round(image.height * shrink))),
        )
        image = image.resize(size, _FILTERS[policy.interpolation])
    canvas = Image.new("RGB", (width, height), policy.background)
    canvas.paste(image, (0, 0))
    return canvas


def to_tensor(image: Image.Image | NDArray[np.uint8]) -> Tensor:
    """8-bit RGB, PIL or (H, W, 3) -> float32 (3, H, W), 0 -> -1 and 255 -> 1.

    Raises:
        ImageError: not 8-bit RGB.
    """
    if isinstance(image, Image.Image) and image.mode != "RGB":
        raise ImageError(f"to_tensor wants an RGB image, not {image.mode}: read it with read_image first")
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ImageError(
            f"to_tensor wants uint8 (H, W, 3), not {array.dtype} {tuple(array.shape)}: use preprocess"
        )
    pixels = array.transpose(2, 0, 1).astype(np.float32, order="C")
    pixels /= 127.5
    pixels -= 1
    return torch.from_numpy(pixels)


def to_pil(pixels: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1] -> RGB, rounded to 8 bits; values outside are clamped. Inverse of ``to_tensor``.

    Raises:
        ImageError: another shape, or NaN.
    """
    if pixels.ndim != 3 or pixels.shape[0] != 3:
        raise ImageError(f"to_pil wants (3, H, W), not {tuple(pixels.shape)}: pass one image of a batch")
    pixels = pixels.detach().float()
    if bool(torch.isnan(pixels).any()):
        raise ImageError("to_pil was given NaN pixels: the decoder or its input is broken")
    array = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(array.permute(1, 2, 0).contiguous().cpu().numpy())
