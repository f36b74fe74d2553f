from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def unwritten_memory_is_nan() -> Iterator[None]:
    """Deterministic mode fills ``torch.empty``: an output that a kernel leaves unwritten shows as NaN or as a huge index."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
