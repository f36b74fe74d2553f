"""Which ids a sequence may hold where: what is wrong in one, and what may follow it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vistok.errors import LayoutError
from vistok.layouts.frame import FIXED, LABEL, Frame
from vistok.layouts.vocabulary import Vocabulary


class Grammar:
    """Checks ids against frames.

    Args:
        system: Named in messages.
        names: Of the streams, in the order of the frames' owners.
        vocabulary: The ids.
        num_stacked: S of ids (B, L, S); 0 of ids (B, L).
    """

    def __init__(self, system: str, names: Sequence[str], vocabulary: Vocabulary, num_stacked: int) -> None:
        self.system, self.names, self.vocabulary, self.num_stacked = (
            system,
            list(names),
            vocabulary,
            num_stacked,
        )

    def groups(self, frame: Frame) -> Tensor:
        """Which group's ids stand where: (L,), or (L, S) where they are stacked."""
        return torch.arange(self.num_stacked).expand(frame.length, -1) if self.num_stacked else frame.group

    def wrong(self, ids: Tensor, frame: Frame) -> Tensor:
        """Where ids (B, P[, S]), P <= L, are not what the frame has there."""
        number = ids.shape[1]
        fixed = frame.fixed[:number].view(1, -1, *[1] * (ids.ndim - 2))
        wrong = ids != fixed
        owner, groups = frame.owner[:number], self.groups(frame)[:number]
        at = owner == LABEL
        labels = ids[:, at] - self.vocabulary.label_start
        wrong[:, at] = (labels < 0) | (labels >= self.vocabulary.num_labels)
        for stream, name in enumerate(self.names):
            if name in self.vocabulary.codes:
                at = owner == stream
                wrong[:, at] = self.vocabulary.codes[name].to_values(ids[:, at], groups[at])[1]
        return wrong

    def follows(self, frame: Frame, position: int) -> Tensor:
        """(V,) or (S, V): the ids that may stand there."""
        mask = torch.zeros(max(1, self.num_stacked), self.vocabulary.size, dtype=torch.bool)
        owner = int(frame.owner[position])
        if owner == LABEL:
            start = self.vocabulary.label_start
            mask[:, start : start + self.vocabulary.num_labels] = True
        elif owner >= 0 and self.names[owner] in self.vocabulary.codes:
            for row in range(len(mask)):
                group = row if self.num_stacked else int(frame.group[position])
                self.vocabulary.codes[self.names[owner]].mark(mask[row], group)
        elif int(frame.fixed[position]) >= 0:
            mask[:, int(frame.fixed[position])] = True
        return mask if self.num_stacked else mask[0]

    def count(self, name: str, ids: Tensor) -> int:
        """How many of the ids (L[, S]) are codes of a stream."""
        codes = self.vocabulary.codes[name]
        wrong = torch.ones_like(ids, dtype=torch.bool)
        for group in range(len(codes.sizes)):
            wrong &= codes.to_values(ids, torch.full_like(ids, group))[1]
        return int((~wrong).sum())

    def first_fit(self, frames: Sequence[Frame], ids: Tensor) -> Frame:
        """The first frame that all ids fit.

        Raises:
            LayoutError: none; of the one that goes longest, the first wrong id.
        """
        longest, told = -1, ""
        for frame in frames:
            common = min(frame.length, ids.shape[1])
            wrong = self.wrong(ids[:, :common], frame)
            wrong = wrong.any(2) if self.num_stacked else wrong
            if not bool(wrong.any()) and ids.shape[1] <= frame.length:
                return frame
            image, position = wrong.nonzero()[0].tolist() if bool(wrong.any()) else (0, common)
            if position > longest:
                longest, told = position, self._told(frame, ids, image, position)
        raise LayoutError(told)

    def _told(self, frame: Frame, ids: Tensor, image: int, position: int) -> str:
        if position == frame.length:
            return f"image {image} is complete with {frame.length} ids, {ids.shape[1]} are given"
        held = ids[image, position].tolist()
        owner = int(frame.owner[position])
        due = f"id {int(frame.fixed[position])}"
        if owner == FIXED:
            name = next(
                (n for n, i in self.vocabulary.specials.items() if i == int(frame.fixed[position])), None
            )
            due = due if name is None else f"{name!r} ({int(frame.fixed[position])})"
        elif owner == LABEL:
            start = self.vocabulary.label_start
            due = f"a label ({start} to {start + self.vocabulary.num_labels - 1})"
        elif self.names[owner] in self.vocabulary.codes:
            name = self.names[owner]
            group = max(0, int(frame.group[position]))
            due = f"a code of {name!r} ({self.vocabulary.codes[name].told(group)})"
        return f"image {image} holds id {held} at position {position}, where {self.system} has {due}"
