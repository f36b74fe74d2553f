"""Reconstructs a dataset and measures what came back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vistok.backbones.perceptual_distance import LPIPS_TRUNKS, perceptual_distance
from vistok.errors import DataError, RecipeError
from vistok.evaluation.codebook import MAX_CODEBOOK_SIZE, CodebookUsage
from vistok.evaluation.distribution import MAX_KERNEL_SAMPLES, TILE, DistributionDistance
from vistok.evaluation.metrics import WINDOW, psnr, round_to_uint8, ssim
from vistok.evaluation.progress import counting
from vistok.evaluation.result import Evaluation, Metric
from vistok.spec import ImagePolicy, StreamSpec
from vistok.tokenizer import Encoded, Tokenizer

PSNR_CAP = 100.0


class Images(Protocol):
    """A map-style dataset whose items hold ``image`` (3, H, W) in [-1, 1] and ``key``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


def evaluate(
    tokenizer: Tokenizer,
    dataset: Images,
    *,
    batch_size: int = 16,
    size: int | None = None,
    perceptual: str | None = "efficientnet-lite0",
    distribution: bool = True,
    progress: bool = True,
) -> Evaluation:
    """Encodes and decodes every image and measures the reconstructions, in this process alone.

    Images and reconstructions are rounded to 8 bits before they are compared. Values are taken per image and then
    averaged, so the batch size does not matter. Where sizes vary, only images of one size share a batch.

    =====================  ==========================================================================================
    psnr                   dB, higher is better; at most 100 (equal images) so that means and JSON stay finite
    ssim                   in [-1, 1], higher is better
    perceptual_efflite0,   lower is better; the name follows ``perceptual``
    lpips, ...
    fd_efflite0            Frechet distance of tiles, lower is better; noted as unreliable below 2 tiles per dimension
    kd_efflite0            kernel distance of tiles, lower is better
    usage, perplexity,     of the main stream's codebook over all tokens; perplexity in [1, K]
    dead_codes
    bits_per_pixel         N S log2(K) / (H W), or the bits of the latents as ``encode`` gives them
    =====================  ==========================================================================================

    Args:
        tokenizer: Any; one without a pixel decoder has only the metrics of its tokens.
        dataset: Images as ``vistok.data`` gives them; where it was given no image policy, it takes the tokenizer's.
        batch_size: Images at once.
        size: Cut the central square of that many pixels; None takes images as the dataset gives them.
        perceptual: ``efficientnet-lite0``, ``lpips``, ``lpips-alex``, a timm model name, or None for none.
        distribution: Whether to compute the two distances between sets.
        progress: Show a progress bar.

    Raises:
        DataError: no images, or one smaller than ``size``.
        RecipeError: a perceptual network that cannot be had, or a batch size below 1.
        ImageError: images whose size the tokenizer or a metric refuses.
    """
    if batch_size < 1:
        raise RecipeError(f"batch_size is {batch_size}: give at least 1")
    if hasattr(dataset, "fitted_to"):
        dataset = dataset.fitted_to(tokenizer.spec)
    run = _Run(tokenizer, perceptual, distribution)
    with counting(len(dataset), progress) as count:
        for images, positions, keys in same_size_batches(dataset, batch_size, size):
            run.see(images, positions, keys)
            count(len(keys))
        if not run.keys:
            raise DataError("the dataset holds no images: there is nothing to evaluate")
        return run.result(view_of(dataset, size))


def same_size_batches(
    dataset: Images, batch_size: int, size: int | None = None
) -> Iterator[tuple[Tensor, list[int], list[str]]]:
    """Batches (B, 3, H, W) of equal-sized images with their positions in the dataset and their keys.

    At most four batches wait for companions; then the fullest goes as it is.
    """
    waiting: dict[tuple[int, int], list[tuple[Tensor, int, str]]] = {}
    for position in range(len(dataset)):
        item = dataset[position]
        image = item["image"] if size is None else center_crop(item["image"], size, item["key"])
        shape = (image.shape[-2], image.shape[-1])
        waiting.setdefault(shape, []).append((image, position, item["key"]))
        if len(waiting[shape]) == batch_size:
            yield _stack(waiting.pop(shape))
        elif sum(map(len, waiting.values())) >= 4 * batch_size:
            yield _stack(waiting.pop(max(waiting, key=lambda shape: len(waiting[shape]))))
    for items in waiting.values():
        yield _stack(items)


def center_crop(image: Tensor, size: int, key: str) -> Tensor:
    """The central square: (3, H, W) -> (3, size, size).

    Raises:
        DataError: the image is smaller.
    """
    height, width = image.shape[-2:]
    if min(height, width) < size:
        raise DataError(
            f"image {key!r} has {height} x {width} pixels, fewer than size={size}: choose a smaller size, or let the image policy resize"
        )
    top, left = (height - size) // 2, (width - size) // 2
    return image[..., top : top + size, left : left + size]


@dataclass
class _Run:
    """What an evaluation gathers: values by metric and position, counts, and set statistics."""

    tokenizer: Tokenizer
    perceptual_name: str | None
    wants_distribution: bool
    keys: dict[int, str] = field(default_factory=dict)
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    usage: CodebookUsage | None = None
    distance: DistributionDistance | None = None
    network: nn.Module | None = None

    def __post_init__(self) -> None:
        self.spec = self.tokenizer.spec
        self.stream: StreamSpec = self.spec.main
        self.device = self.tokenizer.device
        self.has_pixels = self.spec.decoding.kind == "pixels"
        size = self.stream.codebook_size
        if size is not None and size <= MAX_CODEBOOK_SIZE:
            self.usage = CodebookUsage(size, self.stream.num_groups)
        elif size is not None:
            self.left_out["usage"] = f"K = {size} is too large to count"
        if not self.has_pixels:
            self.left_out["psnr"] = "the tokenizer does not decode to pixels"
            return
        if self.perceptual_name is not None:
            self.network = (
                perceptual_distance(self.perceptual_name).to(self.device).requires_grad_(False).eval()
            )
        if self.wants_distribution:
            self.distance = DistributionDistance(self.device)

    @torch.no_grad()
    def see(self, images: Tensor, positions: list[int], keys: list[str]) -> None:
        """Takes in one batch."""
        self.keys.update(zip(positions, keys, strict=True))
        images = images.to(self.device)
        encoded = self.tokenizer.encode(images)
        if self.usage is not None and encoded.indices is not None:
            self.usage.update(encoded.flat_indices())
        bits = self._bits(encoded) / (images.shape[-2] * images.shape[-1])
        self._record("bits_per_pixel", positions, bits)
        if not self.has_pixels:
            return
        reference, reconstruction = round_to_uint8(images), round_to_uint8(self.tokenizer.decode(encoded))
        self._record("psnr", positions, psnr(reference, reconstruction).clamp(max=PSNR_CAP))
        if min(images.shape[-2:]) >= WINDOW:
            self._record("ssim", positions, ssim(reference, reconstruction))
        else:
            self.left_out["ssim"] = f"images smaller than its window of {WINDOW} pixels"
        if self.network is not None:
            self._record(self._perceptual_metric, positions, self.network(reference, reconstruction))
        if self.distance is not None:
            self.distance.update(reference, reconstruction)

    def result(self, view: str) -> Evaluation:
        """The averages with their protocols."""
        count, torch_version = len(self.keys), f"torch-{torch.__version__.split('+')[0]}"
        pixels = f"{view}:uint8"
        metrics: dict[str, Metric] = {}
        protocols = {
            "psnr": f"{pixels}:range1:cap{PSNR_CAP:g}",
            "ssim": f"{pixels}:range1:gauss{WINDOW}-1.5:valid:rgb",
            self._perceptual_metric: f"{pixels}:{self.perceptual_name}",
            "bits_per_pixel": view,
        }
        for name in ("psnr", "ssim", self._perceptual_metric, "bits_per_pixel"):
            # a metric that some images were too small for has no mean over the set
            values = self.values.get(name, {})
            if len(values) == count and name not in self.left_out:
                mean = math.fsum(values.values()) / count
                metrics[name] = Metric(mean, f"{name}/v1:{protocols[name]}:n={count}:{torch_version}")
        metrics.update(self._distribution_metrics(pixels, torch_version))
        metrics.update(self._codebook_metrics(view, count))
        order = sorted(self.keys)
        return Evaluation(
            tokenizer=self.spec.name,
            weights_hash=self.spec.weights_hash,
            num_images=count,
            metrics=metrics,
            per_image={
                name: [values[i] for i in order] for name, values in self.values.items() if name in metrics
            },
            keys=[self.keys[i] for i in order],
            left_out=self.left_out,
        )

    @property
    def _perceptual_metric(self) -> str:
        if self.perceptual_name == "efficientnet-lite0":
            return "perceptual_efflite0"
        name = (self.perceptual_name or "none").replace("-", "_")
        return name if self.perceptual_name in LPIPS_TRUNKS else f"perceptual_{name}"

    def _distribution_metrics(self, pixels: str, torch_version: str) -> dict[str, Metric]:
        if self.distance is None:
            return {}
        samples, dim = self.distance.num_samples, self.distance.dim
        if samples < 2:
            self.left_out["fd_efflite0"] = self.left_out["kd_efflite0"] = (
                f"fewer than 2 tiles of {TILE} pixels"
            )
            return {}
        note = "" if self.distance.frechet_is_reliable else f"unreliable: n < 2 x {dim} dims"
        kept = min(samples, MAX_KERNEL_SAMPLES)
        return {
            name: Metric(value, f"{name}/v1:{pixels}:tile{TILE}:n={number}:{torch_version}", remark)
            for name, value, number, remark in (
                ("fd_efflite0", self.distance.frechet(), samples, note),
                ("kd_efflite0", self.distance.kernel(), kept, ""),
            )
        }

    def _codebook_metrics(self, view: str, count: int) -> dict[str, Metric]:
        if self.usage is None:
            return {}
        tokens, size = self.usage.num_tokens, self.usage.codebook_size
        limit = f"{tokens} tokens can use {tokens / size:.1%} at most" if tokens < size else ""
        values = (
            ("usage", self.usage.usage),
            ("perplexity", self.usage.perplexity),
            ("dead_codes", self.usage.num_dead),
        )
        return {
            name: Metric(
                float(value),
                f"{name}/v1:{view}:K={size}:S={self.usage.num_groups}:tokens={tokens}:n={count}",
                limit,
            )
            for name, value in values
        }

    def _bits(self, encoded: Encoded) -> Tensor:
        """Bits per image of all streams: (B,) in float64."""
        total = torch.zeros(encoded.batch_size, dtype=torch.float64)
        for stream in self.spec.streams:
            values = encoded[stream.name].values
            if stream.codebook_size is None:
                bits: float = values.shape[-1] * values.element_size() * 8
            else:
                bits = values.shape[-1] * math.log2(stream.codebook_size)
            varies = encoded.lengths is not None and stream.name == self.stream.name
            total += bits * (
                encoded.lengths.cpu() if varies and encoded.lengths is not None else values.shape[1]
            )
        return total

    def _record(self, name: str, positions: list[int], values: Tensor) -> None:
        self.values.setdefault(name, {}).update(zip(positions, values.double().tolist(), strict=True))


def _stack(items: list[tuple[Tensor, int, str]]) -> tuple[Tensor, list[int], list[str]]:
    images, positions, keys = zip(*items, strict=True)
    return torch.stack(images), list(positions), list(keys)


def view_of(dataset: Images, size: int | None) -> str:
    """How images were cut and resampled, as the first fields of a protocol id: ``center256:bicubic``."""
    policy: ImagePolicy | None = getattr(dataset, "policy", None)
    fitted = "" if policy is None or policy.size is None else f"{policy.fit}{policy.size[0]}x{policy.size[1]}"
    multiple = getattr(dataset, "multiple_of", 1)
    whole = f"whole-multiple{multiple}" if multiple > 1 else "whole"
    cut = f"center{size}" if size is not None else ""
    parts = "-".join(part for part in (fitted, cut) if part) or whole
    return f"{parts}:{policy.interpolation if policy is not None and fitted else 'native'}"
