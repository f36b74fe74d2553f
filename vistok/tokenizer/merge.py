"""How the vectors of several streams meet before the pixel decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from vistok.backbones.joined_encoder import Joining, resized
from vistok.recorded import Recorded

if TYPE_CHECKING:
    from vistok.tokenizer.parts import StreamParts

Onto = Literal["branch", "main"]


class Merge(Recorded, nn.Module):
    """Joins a branch's vectors to those of the streams before it, on one grid.

    Source: ILLUME+, Huang et al. (2025), arXiv:2504.01934, section 3.1: semantic vectors resized onto the pixel grid
    (bicubic) and concatenated.

    Args:
        joining: ``concat`` puts channels side by side, those before first; ``sum`` adds them.
        onto: Whose grid the result lies on: the ``branch``'s, or that of the streams before it, ``main``.

    Shapes:
        before (B, h, w, C), branch (B, h', w', C') -> (B, *grid, C + C') or (B, *grid, C).

    Raises:
        ValueError: an unknown way or grid.
    """

    def __init__(self, joining: Joining = "concat", onto: Onto = "branch") -> None:
        super().__init__()
        for name, value, choices in (
            ("joining", joining, get_args(Joining)),
            ("onto", onto, get_args(Onto)),
        ):
            if value not in choices:
                raise ValueError(f"{name} is one of {', '.join(choices)}, not {value!r}")
        self.joining, self.onto = joining, onto

    def dim(self, before: int, branch: int) -> int:
        """Channels of the result.

        Raises:
            ValueError: channels that cannot be summed.
        """
        if self.joining == "concat":
            return before + branch
        if before != branch:
            raise ValueError(f"vectors of {before} and {branch} channels cannot be summed: set project_out")
        return before

    def forward(self, before: Tensor, branch: Tensor) -> Tensor:
        """Joins."""
        target = branch if self.onto == "branch" else before
        grid = (target.shape[1], target.shape[2])
        before, branch = resized(before, grid), resized(branch, grid)
        if self.joining == "sum":
            return before + branch
        kind = torch.promote_types(before.dtype, branch.dtype)
        return torch.cat([before.to(kind), branch.to(kind)], dim=-1)


def merge_streams(streams: Mapping[str, StreamParts], vectors: Mapping[str, Tensor]) -> Tensor:
    """The vectors of all streams that reach the pixel decoder, joined in order; the first one always does."""
    merged: Tensor | None = None
    for name, own in vectors.items():
        merge = streams[name].merge
        if merged is None:
            merged = own
        elif merge is not None:
            merged = merge(merged, own)
    assert merged is not None
    return merged
