"""One sha256 for all weights of a module, computed again only when a weight has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def exported_state(module: nn.Module) -> dict[str, Tensor]:
    """The state that is exchanged: all weights and buffers but those that only training needs (``training_buffers``)."""
    hidden = {
        f"{prefix}.{name}" if prefix else name
        for prefix, part in module.named_modules()
        for name in getattr(part, "training_buffers", ())
    }
    return {name: value for name, value in module.state_dict().items() if name not in hidden}


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """sha256 in hex over name, dtype, shape and bytes of each tensor, by name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class WeightsHash:
    """Remembers the hash of a module until a tensor is replaced or written to."""

    def __init__(self) -> None:
        self._seen: tuple[tuple[str, int, int, float], ...] = ()
        self._hash = ""

    def of(self, module: nn.Module) -> str:
        """The hash of the module's exported state as it is now."""
        state = exported_state(module)
        # versions tell of all writes but those through ``.data``, which the sums do
        seen = tuple(
            (n, v.data_ptr(), v._version, float(v.detach().double().sum())) for n, v in state.items()
        )
        if seen != self._seen:
            self._hash, self._seen = hash_tensors(state), seen
        return self._hash
