"""A tokenizer's tokens as the sequence of ids that one backbone expects, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vistok.errors import LayoutError
from vistok.layouts.checks import (
    check_spec,
    check_text,
    check_values,
    check_vocabulary,
    checked_ids,
    checked_labels,
    checked_sizes,
)
from vistok.layouts.fit import matched
from vistok.layouts.frame import LABEL, Frame
from vistok.layouts.frames import Frames
from vistok.layouts.given import batch_of, given_streams
from vistok.layouts.grammar import Grammar
from vistok.layouts.packed import Packed, Stream, StreamValues, Unpacked
from vistok.layouts.streams import Grid, StreamOrder
from vistok.layouts.template import Template
from vistok.layouts.vocabulary import CodeIds, Vocabulary
from vistok.spec import TokenizerSpec


class Layout:
    """How one backbone writes the images of one tokenizer: a pure function of the tokenizer's spec and a template.

    Args:
        template: Name of a layout that comes with vistok, path of a YAML file, or a ``Template``.
        spec: Of the tokenizer.
        vocabulary: The text vocabulary: ids by name, as a text tokenizer's ``get_vocab()`` gives them, or its size. What it does
            not know is added behind it. None takes the published ids.
        text: Ids of a text, for layouts that write the grid as text; by default characters are looked up by name.
        sizes: (H, W) of the images that there can be, in pixels, where neither spec nor caller says one: ``allowed`` then
            lets any of them through, and ``unpack`` finds the one it is.

    Raises:
        LayoutError: a layout that does not fit the tokenizer or the vocabulary.
    """

    def __init__(
        self,
        template: Template | str | Path,
        spec: TokenizerSpec,
        vocabulary: Mapping[str, int] | int | None = None,
        text: Callable[[str], Sequence[int]] | None = None,
        sizes: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.template = template if isinstance(template, Template) else Template.named(template)
        check_spec(spec)
        check_vocabulary(vocabulary)
        check_text(text)
        self.spec = spec
        self._orders = {
            name: StreamOrder(self.template.streams[name], stream, self.template.system)
            for name, stream in matched(self.template, spec).items()
        }
        stacked = [order.num_groups for order in self._orders.values() if order.stacked]
        if stacked and len(self._orders) > 1:
            raise LayoutError(f"{self.template.system} stacks groups, which goes for a single stream")
        self.num_stacked: int = stacked[0] if stacked else 0
        self._vocabulary = Vocabulary(self.template, self._orders, vocabulary)
        self._grammar = Grammar(self.template.system, list(self._orders), self._vocabulary, self.num_stacked)
        text = text if text is not None else _by_character(vocabulary)
        known = checked_sizes(sizes)
        for order in self._orders.values():
            order.check_sizes(known)
        if not known and spec.image.size is not None:
            known = (spec.image.size,)
        self._frames = Frames(self.template, self._vocabulary, self._orders, text, known)

    # ---------------------------------------------------------------- the vocabulary

    @property
    def vocabulary_size(self) -> int:
        """Ids there are, text included: rows of the backbone's embedding."""
        return self._vocabulary.size

    @property
    def text_size(self) -> int:
        """Ids of the text vocabulary that it was given."""
        return self._vocabulary.text_size

    @property
    def specials(self) -> dict[str, int]:
        """Ids of the tokens of fixed meaning, by their name in the template."""
        return dict(self._vocabulary.specials)

    @property
    def mask_id(self) -> int | None:
        """The id of what a masked model has yet to fill; None for others."""
        return self._vocabulary.mask_id

    @property
    def added_tokens(self) -> list[str]:
        """Names of the ids from ``text_size`` on, for a text tokenizer's ``add_tokens``."""
        return list(self._vocabulary.added())

    def codes(self, stream: str | None = None) -> CodeIds:
        """The ids of a stream's codes, by its name in the template; of the first stream by default.

        Raises:
            LayoutError: its values go beside the ids.
        """
        name = next(iter(self._orders)) if stream is None else stream
        if name not in self._vocabulary.codes:
            raise LayoutError(
                f"{self.template.system} has no ids for the codes of {name!r}: placeholders stand for them"
            )
        return self._vocabulary.codes[name]

    # ---------------------------------------------------------------- there

    def pack(
        self,
        tokens: Tensor | Mapping[str, StreamValues],
        grid: Grid | None = None,
        labels: Tensor | None = None,
    ) -> Packed:
        """Tokens to sequences.

        Args:
            tokens: What ``encode`` gave, or indices (B, N, S) or latents (B, N, D) of a single stream.
            grid: The token grid, for a tensor.
            labels: (B,) class labels, for layouts that begin with one.

        Raises:
            LayoutError: tokens that do not fit their grid or codebook, or labels that are missing or out of range.
        """
        given = given_streams(tokens, grid, self._orders, self._frames, self.template.system)
        frame = self._frames.of(tuple(stream.grid for stream in given))
        for order, stream in zip(self._orders.values(), given, strict=True):
            order.check(stream.values, stream.grid)
        batch = batch_of(given, self.template.system)
        ids = frame.fixed.expand(batch, -1).clone()
        if self.num_stacked:
            ids = ids.unsqueeze(-1).repeat(1, 1, self.num_stacked)
        beside: dict[str, Tensor] = {}
        for number, ((name, order), stream) in enumerate(zip(self._orders.items(), given, strict=True)):
            arranged = order.arrange(stream.values.to("cpu"), stream.grid)
            if order.rule.placeholder is not None:
                beside[name] = arranged
                continue
            at = frame.owner == number
            ids[:, at] = self._vocabulary.codes[name].to_ids(arranged, self._grammar.groups(frame)[at])
        self._write_labels(ids, frame, labels)
        return Packed(
            ids,
            loss_mask=torch.arange(frame.length) >= frame.first_token,
            is_token=frame.owner >= 0,
            rows=frame.row,
            columns=frame.column,
            scales=frame.scale,
            values=beside,
            placeholders={name: frame.owner == list(self._orders).index(name) for name in beside},
        )

    # ---------------------------------------------------------------- and back

    def unpack(
        self,
        ids: Tensor,
        values: Mapping[str, Tensor] | None = None,
        grid: Grid | Sequence[Grid] | None = None,
    ) -> Unpacked:
        """Sequences to tokens.

        Args:
            ids: (B, L) or (B, L, S), of exactly one image each, all of one size.
            values: What went beside the ids, for layouts with placeholders.
            grid: The token grid, of each stream where there are several; where none is said it is found.

        Raises:
            LayoutError: ids that this layout does not write; the message names the first wrong one.
        """
        ids = checked_ids(ids, self.num_stacked, self.template.system)
        if not len(ids):
            raise LayoutError(f"there is no image in ids {tuple(ids.shape)}: give at least one row")
        frames = self._frames.candidates(grid) or self._frames.guesses(ids, self._grammar)
        fitting = [frame for frame in frames if frame.length == ids.shape[1]]
        if not fitting:
            lengths = ", ".join(str(frame.length) for frame in frames[:4]) or "none that could be found"
            raise LayoutError(
                f"{self.template.system} writes such images with {lengths} ids, these are {ids.shape[1]}: say grid="
            )
        frame = self._grammar.first_fit(fitting, ids)
        streams: dict[str, Stream] = {}
        for number, (name, order) in enumerate(self._orders.items()):
            own = frame.grids[number]
            if order.rule.placeholder is not None:
                arranged = self._beside(name, values, len(ids), int((frame.owner == number).sum()))
            else:
                at = frame.owner == number
                arranged, _ = self._vocabulary.codes[name].to_values(
                    ids[:, at], self._grammar.groups(frame)[at]
                )
            streams[order.stream.name] = Stream(order.restore(arranged, own), own)
            if order.rule.placeholder is not None:
                order.check(streams[order.stream.name].values, own)
        labels = ids[:, frame.owner == LABEL].flatten(1)[:, :1].flatten() - self._vocabulary.label_start
        return Unpacked(streams, labels if len(labels) else None)

    def allowed(self, prefix: Tensor, grid: Grid | Sequence[Grid] | None = None) -> Tensor:
        """Which ids may follow.

        Args:
            prefix: (B, P) or (B, P, S) ids from the beginning of the sequence on, P from 0.
            grid: The token grid; where none is said, any of the sizes that the layout knows.

        Shapes:
            -> (B, V) bool over the vocabulary, or (B, S, V). Where nothing may follow, the sequence is complete; where a
            placeholder outside the vocabulary follows, nothing may either.

        Raises:
            LayoutError: a prefix that this layout does not write; the message names the first wrong id.
        """
        prefix = checked_ids(prefix, self.num_stacked, self.template.system)
        frames = self._frames.known(grid)
        shape = (self.num_stacked, self.vocabulary_size) if self.num_stacked else (self.vocabulary_size,)
        allowed = torch.zeros(len(prefix), *shape, dtype=torch.bool)
        written = torch.zeros(len(prefix), dtype=torch.bool)
        position = prefix.shape[1]
        for frame in frames:
            if frame.length < position:
                continue
            fits = ~self._grammar.wrong(prefix, frame).flatten(1).any(1)
            written |= fits
            if position < frame.length and bool(fits.any()):
                allowed[fits] |= self._grammar.follows(frame, position)
        if not bool(written.all()):
            self._grammar.first_fit(frames, prefix)
        return allowed

    def complete(self, ids: Tensor, grid: Grid | Sequence[Grid] | None = None) -> Tensor:
        """Which sequences begin with a whole image, whatever comes after: (B, P) or (B, P, S) -> (B,) bool."""
        ids = checked_ids(ids, self.num_stacked, self.template.system)
        complete = torch.zeros(len(ids), dtype=torch.bool)
        for frame in self._frames.known(grid):
            if frame.length <= ids.shape[1]:
                complete |= ~self._grammar.wrong(ids[:, : frame.length], frame).flatten(1).any(1)
        return complete

    def length(self, grid: Grid | Sequence[Grid] | None = None) -> int:
        """L, ids of one image; of the largest of the known sizes where no grid is said."""
        return max(frame.length for frame in self._frames.known(grid))

    def prompt(self, grid: Grid | Sequence[Grid] | None = None, labels: Tensor | None = None) -> Tensor:
        """What stands before the first token of an image of one size: (B, P) ids, B the number of labels, or 1."""
        frames = self._frames.known(grid)
        if len(frames) != 1:
            raise LayoutError(f"{self.template.system} begins differently for {len(frames)} sizes: say grid=")
        (frame,) = frames
        if labels is not None:
            labels = checked_labels(labels, None, self._vocabulary.num_labels, self.template.system)
        ids = frame.fixed.expand(1 if labels is None else len(labels), -1).clone()
        if self.num_stacked:
            ids = ids.unsqueeze(-1).repeat(1, 1, self.num_stacked)
        self._write_labels(ids, frame, labels)
        return ids[:, : frame.first_token]

    # ---------------------------------------------------------------- inside

    def _write_labels(self, ids: Tensor, frame: Frame, labels: Tensor | None) -> None:
        at = frame.owner == LABEL
        if bool(at.any()) != (labels is not None):
            needs = "begins with a class label" if labels is None else "has no class labels"
            raise LayoutError(
                f"{self.template.system} {needs}: {'give' if labels is None else 'leave out'} labels="
            )
        if labels is None:
            return
        labels = checked_labels(labels, len(ids), self._vocabulary.num_labels, self.template.system)
        ids[:, at] = (labels + self._vocabulary.label_start).view(-1, *[1] * (ids.ndim - 1))

    def _beside(self, name: str, values: Mapping[str, Tensor] | None, batch: int, number: int) -> Tensor:
        if not isinstance(values, Mapping) or name not in values:
            raise LayoutError(
                f"{self.template.system} has placeholders for {name!r}: give values= that pack gave beside the ids"
            )
        order, found = self._orders[name], values[name]
        last = order.stream.dim * order.rule.patch**2 if order.rule.latents else order.num_groups
        what = f"what stands beside the {number} placeholders for {name!r}"
        check_values(found, (batch, number, last), order.rule.latents, what)
        return found


def _by_character(vocabulary: Mapping[str, int] | int | None) -> Callable[[str], Sequence[int]] | None:
    if not isinstance(vocabulary, Mapping):
        return None

    def look_up(text: str) -> list[int]:
        missing = next((character for character in text if character not in vocabulary), None)
        if missing is not None:
            raise LayoutError(
                f"the text vocabulary has no {missing!r}, of {text!r}: give text=, a text tokenizer's encode"
            )
        return [vocabulary[character] for character in text]

    return look_up
