from __future__ import annotations

import pytest
import torch

from vistok.backbones import AttentionProjection
from vistok.recorded import build


@pytest.mark.parametrize(("dim_in", "dim_out"), [(32, 8), (8, 32), (16, 16)])
@pytest.mark.parametrize("shape", [(3, 5), (7,)])
def test_channels_change_on_any_grid(dim_in: int, dim_out: int, shape: tuple[int, ...]) -> None:
    projection = AttentionProjection(dim_in, dim_out, num_heads=4)
    x = torch.randn(2, *shape, dim_in)
    projected = projection(x)
    assert projected.shape == (2, *shape, dim_out)
    projected.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in projection.parameters())
    again = build(projection.to_config(), {"AttentionProjection": AttentionProjection})
    again.load_state_dict(projection.state_dict())
    assert torch.equal(again(x), projected)


def test_every_position_sees_all_others_of_its_image_and_no_other_image() -> None:
    projection = AttentionProjection(16, 4, num_heads=2).double()
    x = torch.randn(2, 3, 3, 16, dtype=torch.float64)
    changed = x.clone()
    changed[0, 2, 2] = -changed[0, 2, 2]
    difference = (projection(changed) - projection(x)).abs().sum(dim=-1)
    assert (difference[0] > 0).all() and (difference[1] == 0).all()


def test_channels_that_the_heads_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="30 channels cannot be split into 4 attention heads"):
        AttentionProjection(30, 8, num_heads=4)
