"""Latents as diffusion models store them: channels first, and as the autoencoder gave them unless asked otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vistok.errors import ShardError
from vistok.shards.exports.source import ExportSample
from vistok.spec import LatentSpec, TokenizerSpec

LEAST_LOG_VARIANCE = -30.0  # where readers of moments clamp, as the autoencoders do that gave them


def channels_first(
    sample: ExportSample, spec: TokenizerSpec, format_name: str, *, normalised: bool
) -> NDArray[np.float32]:
    """The latents (N, D) of a sample as (D, h, w).

    Args:
        sample: Continuous.
        spec: Of its tokenizer.
        format_name: For messages.
        normalised: Keep the tokenizer's shift and scale; otherwise they are undone.

    Raises:
        ShardError: the token grid is not two-dimensional, or the latents are not what the spec says.
    """
    latents = sample.tokens
    if not normalised and spec.latents is not None:
        latents = _raw(latents, spec.latents)
    return _on_grid(latents, sample, format_name)


def log_variances(
    sample: ExportSample, spec: TokenizerSpec, format_name: str, *, normalised: bool
) -> NDArray[np.float32] | None:
    """The log-variances (D, h, w) of the latents of a sample, as ``channels_first`` gives their means; None without moments.

    Raises:
        ShardError: as ``channels_first``.
    """
    if sample.std is None:
        return None
    std = sample.std.astype(np.float64)
    if not normalised and spec.latents is not None:
        scale = np.array(spec.latents.scale)
        std = std / (scale.reshape(std.shape) if spec.latents.grid else scale)
    with np.errstate(divide="ignore"):  # a deviation of 0 is the clamp below
        log_variance = 2 * np.log(std)
    return _on_grid(np.maximum(log_variance, LEAST_LOG_VARIANCE), sample, format_name)


def _on_grid(values: NDArray[Any], sample: ExportSample, format_name: str) -> NDArray[np.float32]:
    grid = sample.grid
    if len(grid) != 2 or grid[0] * grid[1] != len(values):
        raise ShardError(
            f"{format_name} holds latents on a grid (h, w), and {sample.key!r} has {len(values)} on {grid}: "
            "export to parquet or mds"
        )
    return np.ascontiguousarray(values.T.reshape(values.shape[1], *grid), dtype=np.float32)


def _raw(latents: NDArray[np.float32], spec: LatentSpec) -> NDArray[np.float64]:
    if latents.shape[1] != spec.channels:
        raise ShardError(
            f"a sample has latents of {latents.shape[1]} channels, the spec says {spec.channels}"
        )
    shift, scale = np.array(spec.shift), np.array(spec.scale)
    if spec.grid:
        if latents.size != shift.size:
            raise ShardError(
                f"a sample has {len(latents)} positions, the spec normalises those of a grid {spec.grid}"
            )
        shift, scale = shift.reshape(latents.shape), scale.reshape(latents.shape)
    raw: NDArray[np.float64] = latents.astype(np.float64) / scale + shift
    return raw
