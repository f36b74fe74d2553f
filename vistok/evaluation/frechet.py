"""Distances between two sets of feature vectors: Frechet and kernel (MMD)."""

from __future__ import annotations

import torch
from torch import Tensor


class FeatureStatistics:
    """Mean and covariance of feature vectors, summed up in float64 as batches arrive.

    Args:
        dim: Channels D of a feature vector.
    """

    def __init__(self, dim: int) -> None:
        self.num_samples = 0
        self._sum = torch.zeros(dim, dtype=torch.float64)
        self._products = torch.zeros(dim, dim, dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Adds feature vectors (n, D)."""
        features = features.detach().cpu().double()
        self.num_samples += features.shape[0]
        self._sum += features.sum(0)
        self._products += features.T @ features

    @property
    def mean(self) -> Tensor:
        """(D,) float64."""
        return self._sum / self.num_samples

    @property
    def covariance(self) -> Tensor:
        """(D, D) float64, unbiased (divided by n - 1)."""
        centred = self._products - torch.outer(self._sum, self._sum) / self.num_samples
        return centred / (self.num_samples - 1)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Frechet distance of two Gaussians: |mean difference|^2 + trace(A + B - 2 sqrt(A B)).

    Biased upwards for small sets, and of little meaning below two samples per dimension, where the covariances are
    singular. The trace of the root is the sum of the roots of the eigenvalues of sqrt(A) B sqrt(A), which is symmetric.

    Source: Heusel et al., GANs Trained by a Two Time-Scale Update Rule (2017), arXiv:1706.08500, equation 6.

    Raises:
        ValueError: fewer than two samples in a set.
    """
    if min(a.num_samples, b.num_samples) < 2:
        raise ValueError(
            f"sets of {a.num_samples} and {b.num_samples} samples have no covariance: give at least 2"
        )
    covariance_a, covariance_b = a.covariance, b.covariance
    values, vectors = torch.linalg.eigh(covariance_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    eigenvalues = torch.linalg.eigvalsh(root @ covariance_b @ root).clamp(min=0)
    trace = covariance_a.trace() + covariance_b.trace() - 2 * eigenvalues.sqrt().sum()
    return max(float((a.mean - b.mean).square().sum() + trace), 0.0)


def kernel_distance(a: Tensor, b: Tensor, block: int = 1024) -> float:
    """Squared maximum mean discrepancy with the kernel (x . y / D + 1)^3, over the whole sets.

    Unbiased, so that small sets suffice, and therefore able to fall slightly below 0. Memory O(block^2).

    Source: Binkowski et al., Demystifying MMD GANs (2018), arXiv:1801.01401, section 4; there averaged over subsets.

    Args:
        block: Rows and columns of the kernel matrix that are held at once.

    Shapes:
        a (n, D), b (m, D) -> scalar.

    Raises:
        ValueError: fewer than two samples in a set.
    """
    n, m = a.shape[0], b.shape[0]
    if min(n, m) < 2:
        raise ValueError(f"sets of {n} and {m} samples have no unbiased distance: give at least 2")
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    within_a = (_kernel_sum(a, a, block) - _kernel_of_itself(a)) / (n * (n - 1))
    within_b = (_kernel_sum(b, b, block) - _kernel_of_itself(b)) / (m * (m - 1))
    return within_a + within_b - 2 * _kernel_sum(a, b, block) / (n * m)


def _kernel_sum(a: Tensor, b: Tensor, block: int) -> float:
    dim, total = a.shape[1], 0.0
    for x in torch.split(a, block):
        for y in torch.split(b, block):
            total += float((x @ y.T / dim + 1).pow(3).sum())
    return total


def _kernel_of_itself(a: Tensor) -> float:
    return float((a.square().sum(1) / a.shape[1] + 1).pow(3).sum())
