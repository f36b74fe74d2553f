"""Lloyd's k-means on the nearest-code kernel: memory O(N + K), never the N x K matrix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vistok_kernels import code_sums, nearest_code


@torch.no_grad()
def kmeans(
    rows: Tensor, num_clusters: int, *, metric: str = "euclid", iterations: int = 10, seed: int = 0
) -> Tensor:
    """Centres of the rows; with fewer rows than clusters, the rows repeated with a little noise.

    Args:
        rows: (N, D) float32, N at least 1; for ``cosine`` of length 1.
        num_clusters: K.
        metric: ``euclid``, or ``cosine`` for centres of length 1.
        iterations: Assign-and-average rounds; a cluster left empty takes a random row.
        seed: Of the draws.

    Shapes:
        rows (N, D) -> centres (K, D).

    Source: Lloyd, Least squares quantization in PCM (1982).
    """
    generator = torch.Generator().manual_seed(seed)
    num_rows = rows.shape[0]
    spread = rows.std(dim=0, unbiased=False, keepdim=True)

    def draw(count: int) -> Tensor:
        repeats = -(-count // num_rows)
        picks = torch.cat([torch.randperm(num_rows, generator=generator) for _ in range(repeats)])[:count]
        noise = torch.randn(count, rows.shape[1], generator=generator).to(rows.device)
        fresh = (torch.arange(count) < num_rows).unsqueeze(1).to(rows.device)
        drawn = rows[picks.to(rows.device)]
        return drawn + torch.where(fresh, torch.zeros_like(noise), 0.01 * noise * spread)

    centres = _project(draw(num_clusters), metric)
    if num_rows <= num_clusters:
        return centres
    for _ in range(iterations):
        counts, sums = code_sums(rows, nearest_code(rows, centres, metric), num_clusters)
        empty = counts == 0
        means = sums / counts.clamp(min=1).unsqueeze(1)
        if bool(empty.any()):
            means[empty] = draw(int(empty.sum()))
        centres = _project(means, metric)
    return centres


def _project(centres: Tensor, metric: str) -> Tensor:
    return F.normalize(centres, dim=-1) if metric == "cosine" else centres
