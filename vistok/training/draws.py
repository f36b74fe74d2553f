"""Random numbers of a training step: functions of the seed, the micro-batch and the image, not of the process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def seed_draws(seed: int, index: int) -> None:
    """Seeds torch for one micro-batch, alike on all processes, from numbers that a resumed run knows again."""
    digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little") >> 1)


class WholeBatchDraws(TorchFunctionMode):
    """Lets every process draw for the whole batch and keep the part that belongs to its own images.

    So the noise of an image depends on its place in the whole batch alone, and any number of processes, all seeded
    alike, draw what one process does. It acts on ``torch.rand``, ``randn``, ``rand_like`` and ``randn_like`` where the
    first dimension counts the process's images, which is all that vistok's quantizers draw in training. Whatever else
    draws (dropout inside a foreign backbone, say) gets the same numbers on each process, and does differ from one process.

    Args:
        num_images: Of this process; the same on all of them.
        rank: In [0, world_size): its images are the rank-th contiguous part of the whole batch.
        world_size: Number of processes.
    """

    def __init__(self, num_images: int, rank: int, world_size: int) -> None:
        super().__init__()
        self.num_images, self.rank, self.world_size = num_images, rank, world_size

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Draws for all and slices; passes everything else on."""
        options = dict(kwargs or {})
        if func in (torch.randn_like, torch.rand_like):
            like: Tensor = args[0] if args else options.pop("input")
            if like.ndim and like.shape[0] == self.num_images:
                whole = like.detach().repeat(self.world_size, *[1] * (like.ndim - 1))
                return self._mine(func(whole, *args[1:], **options))
        elif func in (torch.randn, torch.rand):
            shape = _shape(args, options)
            if shape and shape[0] == self.num_images:
                options.pop("size", None)
                return self._mine(func((self.num_images * self.world_size, *shape[1:]), **options))
        return func(*args, **(kwargs or {}))

    def _mine(self, whole: Tensor) -> Tensor:
        return whole[self.rank * self.num_images :][: self.num_images]


def _shape(args: Sequence[Any], options: Mapping[str, Any]) -> tuple[int, ...]:
    # torch.randn(2, 3), torch.randn((2, 3)) and torch.randn(size=(2, 3)) all name one shape
    given = args if args and isinstance(args[0], int) else args[0] if args else options.get("size", ())
    return tuple(given)
