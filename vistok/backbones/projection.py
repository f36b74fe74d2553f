"""Maps from one number of channels to another, between encoder, quantizer and decoder."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from vistok.recorded import Recorded

Activation = Literal["gelu", "relu", "silu", "tanh"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


class Linear(Recorded, nn.Linear):
    """One linear layer over the last dimension; VQGAN's ``quant_conv``, a 1x1 convolution, is the same map.

    Args:
        dim_in: Channels that come in.
        dim_out: Channels that go out.
        bias: Adds a learned offset.

    Shapes:
        x (..., dim_in) -> (..., dim_out).
    """

    def __init__(self, dim_in: int, dim_out: int, bias: bool = True) -> None:
        super().__init__(dim_in, dim_out, bias=bias)
        self.dim_in, self.dim_out = dim_in, dim_out


class MLP(Recorded, nn.Module):
    """Two linear layers with an activation between them, over the last dimension.

    Args:
        dim_in: Channels that come in.
        hidden: Channels between the layers.
        dim_out: Channels that go out.
        activation: ``"gelu"``, ``"relu"``, ``"silu"`` or ``"tanh"``.

    Shapes:
        x (..., dim_in) -> (..., dim_out).

    Raises:
        ValueError: an unknown activation.
    """

    def __init__(self, dim_in: int, hidden: int, dim_out: int, activation: Activation = "gelu") -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation is one of {', '.join(_ACTIVATIONS)}, not {activation!r}")
        self.dim_in, self.dim_out = dim_in, dim_out
        self.layers = nn.Sequential(
            nn.Linear(dim_in, hidden), _ACTIVATIONS[activation](), nn.Linear(hidden, dim_out)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps each vector."""
        return self.layers(x)  # type: ignore[no-any-return]
