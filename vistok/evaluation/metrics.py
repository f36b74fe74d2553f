"""Fidelity of reconstructions, image by image: PSNR and SSIM."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def round_to_uint8(image: Tensor) -> Tensor:
    """The image as it would be after saving it with 8 bits: clamped to [-1, 1] and rounded to 256 levels, as float32.

    Shapes:
        image (B, 3, H, W) -> the same.
    """
    levels = ((image.float() + 1) * 127.5).round().clamp(0, 255)
    return levels / 127.5 - 1


def psnr(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, in dB, over all channels; infinite for equal images.

    Nothing is rounded or clamped here: do it before (``round_to_uint8``), and say so in the protocol.

    Shapes:
        reference, reconstruction (B, C, H, W) in [-1, 1] -> (B,) float64.

    Raises:
        ValueError: shapes that differ.
    """
    a, b = _unit_range(reference, reconstruction)
    return -10 * (a - b).square().mean((1, 2, 3)).log10()


def ssim(reference: Tensor, reconstruction: Tensor) -> Tensor:
    """Structural similarity of each image, in [-1, 1]; 1 for equal images.

    Images are taken to [0, 1] and the data range is 1: with a range of 2 on such images, a fault that is often copied,
    the constants grow fourfold and the values are inflated. Gaussian window of 11 x 11 with sigma 1.5, population
    covariance, only positions where the whole window fits, mean over channels and positions.

    Source: Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity (2004), IEEE TIP 13(4),
    section III; there on luminance.

    Shapes:
        reference, reconstruction (B, C, H, W) in [-1, 1], H and W at least 11 -> (B,) float64.

    Raises:
        ValueError: shapes that differ, or images smaller than the window.
    """
    a, b = _unit_range(reference, reconstruction)
    if min(a.shape[-2:]) < WINDOW:
        raise ValueError(
            f"images of {a.shape[-2]} x {a.shape[-1]} pixels are smaller than the SSIM window of {WINDOW} x {WINDOW}"
        )
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a, variance_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    structure = (2 * covariance + C2) / (variance_a + variance_b + C2)
    return (luminance * structure).mean((1, 2, 3))


def _unit_range(reference: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
    if reference.shape != reconstruction.shape or reference.ndim != 4:
        raise ValueError(
            f"images are {tuple(reference.shape)} and {tuple(reconstruction.shape)}, they must be (B, C, H, W) alike"
        )
    # variances are small differences of large numbers; Apple's GPUs have no float64
    dtype = torch.float32 if reference.device.type == "mps" else torch.float64
    return (reference.to(dtype) + 1) / 2, (reconstruction.to(dtype) + 1) / 2


def _blur(image: Tensor) -> Tensor:
    offsets = torch.arange(WINDOW, dtype=image.dtype, device=image.device) - WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    window = window / window.sum()
    flat = image.flatten(0, 1).unsqueeze(1)
    blurred = functional.conv2d(functional.conv2d(flat, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
    return blurred.view(*image.shape[:2], *blurred.shape[-2:])
