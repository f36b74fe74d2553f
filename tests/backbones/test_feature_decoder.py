from __future__ import annotations

import pytest
import torch

from vistok.backbones import FeatureDecoder
from vistok.errors import ImageError
from vistok.recorded import build


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize(
    ("pool", "upsample", "grid"), [(1, 1, (4, 6)), (2, 1, (2, 3)), (1, 2, (8, 12)), (2, 3, (6, 9))]
)
def test_features_lie_on_the_teachers_grid(
    depth: int, pool: int, upsample: int, grid: tuple[int, int]
) -> None:
    head = FeatureDecoder(8, 5, width=16, depth=depth, num_heads=2, pool=pool, upsample=upsample)
    features = head(torch.randn(2, 4, 6, 8))
    assert features.shape == (2, *grid, 5) and features.is_contiguous()


def test_without_depth_each_token_is_read_alone() -> None:
    head = FeatureDecoder(8, 5, width=16, depth=0)
    x = torch.randn(1, 2, 2, 8)
    torch.testing.assert_close(head(x)[:, :1, :1], head(x[:, :1, :1]))


def test_a_grid_that_the_pool_does_not_divide_is_refused() -> None:
    with pytest.raises(ImageError, match="5 x 6 cannot be pooled by 2"):
        FeatureDecoder(8, 5, width=16, depth=0, pool=2)(torch.randn(1, 5, 6, 8))


def test_the_config_builds_the_same_head() -> None:
    head = FeatureDecoder(8, 5, width=16, depth=1, num_heads=2, pool=2)
    again = build(head.to_config(), {"FeatureDecoder": FeatureDecoder})
    again.load_state_dict(head.state_dict())
    x = torch.randn(1, 4, 4, 8)
    assert torch.equal(head(x), again(x))
