"""8-bit pixels and the floats in [-1, 1] that they stand for: a quarter of the bytes between processes, not a bit lost."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def as_bytes_if_exact(image: Tensor) -> Tensor:
    """An image in [-1, 1] as uint8 where ``to_floats`` gives back each of its bits, else itself."""
    pixels = image.numpy()
    found = np.rint((pixels + np.float32(1)) * np.float32(127.5)).astype(np.uint8)
    # compared as they will be read: images that were not 8-bit, or were scaled in another way, stay floats
    return torch.from_numpy(found) if np.array_equal(_floats(found), pixels) else image


def to_floats(image: Tensor) -> Tensor:
    """uint8 or float pixels as float32 in [-1, 1]; 8-bit ones as ``vistok.tokenizer.preprocess.to_tensor`` scales them."""
    if image.dtype != torch.uint8:
        return image.float()
    if image.device.type == "cpu":
        return torch.from_numpy(_floats(image.numpy()))
    # a number would be multiplied with its rounded reciprocal here, which is another float
    return image.float().div_(torch.full((), 127.5, device=image.device)).sub_(1)


def _floats(
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    values = pixels.astype(np.float32)
    values /= 127.5
    values -= 1
    return values
