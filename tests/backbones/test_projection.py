from __future__ import annotations

import pytest
import torch

from vistok.backbones import MLP, Linear
from vistok.recorded import Recorded, build


@pytest.mark.parametrize(
    "projection", [Linear(6, 4), Linear(6, 4, bias=False), MLP(6, 8, 4), MLP(6, 8, 4, "tanh")]
)
def test_the_last_dimension_is_projected_and_the_config_builds_it_again(projection: Linear | MLP) -> None:
    x = torch.randn(2, 3, 5, 6)
    assert isinstance(projection, Recorded)
    again = build(projection.to_config(), {"Linear": Linear, "MLP": MLP})
    again.load_state_dict(projection.state_dict())
    assert projection(x).shape == (2, 3, 5, 4)
    assert torch.equal(again(x), projection(x))
    assert (projection.dim_in, projection.dim_out) == (6, 4)


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="one of gelu, relu, silu, tanh, not 'sine'"):
        MLP(6, 8, 4, "sine")  # type: ignore[arg-type]
