"""Every test runs on few threads and offline, so that it means the same on a laptop and in CI."""

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(autouse=True)
def seeded():
    """Tests that draw without a generator draw the same numbers each time."""
    import torch

    torch.manual_seed(0)
