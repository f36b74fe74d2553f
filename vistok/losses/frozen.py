"""A home for networks that a loss reads and nobody trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

F = TypeVar("F", bound="Frozen")


class Frozen(nn.Module):
    """Holds one network that is never trained and never saved.

    The network follows ``.to(device)``, but is no submodule: it is absent from ``parameters()`` (optimizers and DDP do
    not see it), from ``state_dict()`` (a checkpoint does not repeat 60 MB of public weights) and from ``train()`` (its
    batch norms keep their published statistics).

    Args:
        network: Put in eval mode, its gradients switched off; gradients still flow through it to its input.
    """

    _held: tuple[nn.Module]

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # a tuple, because nn.Module would register a bare attribute as a submodule
        self._held = (network.eval().requires_grad_(False),)

    @property
    def network(self) -> nn.Module:
        """The frozen network."""
        return self._held[0]

    def _apply(self: F, fn: Callable[..., Any], recurse: bool = True) -> F:
        self._held[0]._apply(fn)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self
