"""Means over images, not over batches."""

from __future__ import annotations

import pytest
import torch

from vistok.training.means import RunningMeans


def test_each_image_counts_once():
    means = RunningMeans()
    means.add({"a": torch.tensor(1.0)}, count=3)
    means.add({"a": torch.tensor(5.0), "b": torch.tensor(2.0)}, count=1)
    assert means.finish() == pytest.approx({"a": 2.0, "b": 2.0})
    assert means.finish() == {}
