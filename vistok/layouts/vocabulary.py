"""Which id each special token and each code has: in a text vocabulary that knows them, or added at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vistok.errors import LayoutError
from vistok.layouts.streams import StreamOrder
from vistok.layouts.template import Label, Special, StreamRule, Template

LETTERS = str.maketrans("0123456789", "ABCDEFGHIJ")
MOST_IDS = 1 << 62


@dataclass(frozen=True)
class CodeIds:
    """The ids of a stream's codes.

    Args:
        starts: (G,) id of value 0 of each group.
        sizes: (G,) values of each group.
        table: (K,) ids of all values, the same for every group; None where they follow ``starts`` without a gap.
    """

    starts: Tensor
    sizes: Tensor
    table: Tensor | None = None

    def to_ids(self, values: Tensor, group: Tensor) -> Tensor:
        """Values (..., M) of the groups (M,) to ids."""
        if self.table is not None:
            return self.table[values]
        return values + self.starts[group]

    def to_values(self, ids: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
        """Ids (..., M) to values, and which of them are no code of their group; those give 0."""
        if self.table is not None:
            order = self.table.argsort()
            ranked = self.table[order]
            at = torch.searchsorted(ranked, ids).clamp(max=len(ranked) - 1)
            wrong = ranked[at] != ids
            return order[at].masked_fill(wrong, 0), wrong
        values = ids - self.starts[group]
        wrong = (values < 0) | (values >= self.sizes[group])
        return values.masked_fill(wrong, 0), wrong

    def mark(self, mask: Tensor, group: int) -> None:
        """Sets a mask (V,) over the vocabulary where a code of this group is."""
        if self.table is not None:
            mask[self.table] = True
        else:
            start = int(self.starts[group])
            mask[start : start + int(self.sizes[group])] = True

    def all_ids(self) -> Tensor:
        """(G, K) ids of every value of every group, groups of one size only."""
        if self.table is not None:
            return self.table.expand(len(self.sizes), -1)
        return self.starts[:, None] + torch.arange(int(self.sizes[0]))

    def twice(self) -> int | None:
        """An id that two values have, if there is one."""
        if self.table is None:
            return None
        ranked = self.table.sort().values
        twice = ranked[1:][ranked[1:] == ranked[:-1]]
        return int(twice[0]) if len(twice) else None

    def meeting(self, other: CodeIds) -> int | None:
        """The least id that codes of another stream have too, if there is one."""
        if self.table is None and other.table is not None:
            return other.meeting(self)
        least: list[int] = []
        for group in range(len(other.sizes)):
            if self.table is not None:
                found = self.table[~other.to_values(self.table, torch.full_like(self.table, group))[1]]
                least += found.tolist()
                continue
            first, end = int(other.starts[group]), int(other.starts[group] + other.sizes[group])
            both = self.starts.clamp(min=first)
            least += both[both < (self.starts + self.sizes).clamp(max=end)].tolist()
        return min(least, default=None)

    def told(self, group: int) -> str:
        """The ids of a group in words."""
        if self.table is not None:
            return f"{int(self.table.min())} to {int(self.table.max())}"
        start = int(self.starts[group])
        return f"{start} to {start + int(self.sizes[group]) - 1}"

    @property
    def end(self) -> int:
        """One more than the largest id."""
        if self.table is not None:
            return int(self.table.max()) + 1
        return int((self.starts + self.sizes).max())


class Vocabulary:
    """Ids of a template's tokens.

    What the text vocabulary knows keeps its id there; all else is added behind it, in the order that the template says.

    Args:
        template: Whose tokens.
        orders: Its streams.
        text: The text vocabulary: ids by name, its size, or None for the published one.

    Raises:
        LayoutError: ids that meet each other, or codes of which the text vocabulary has only some.
    """

    def __init__(
        self,
        template: Template,
        orders: Mapping[str, StreamOrder],
        text: Mapping[str, int] | int | None = None,
    ) -> None:
        self._template, self._orders, self._text = template, orders, text
        self._published = text is None
        known = max(text.values(), default=-1) + 1 if isinstance(text, Mapping) else text
        if known is None and template.text_vocabulary is None:
            raise LayoutError(
                f"the ids of {template.system} are those of a text vocabulary: give vocabulary=, its get_vocab() or its size"
            )
        self.text_size: int = (template.text_vocabulary or 0) if known is None else known
        self.specials: dict[str, int] = {}
        self.choices: dict[str, dict[int, int]] = {name: {} for name in template.choices}
        self.codes: dict[str, CodeIds] = {}
        self.label_start, self.num_labels = 0, sum(i.label for i in template.sequence if isinstance(i, Label))
        self.mask_id: int | None = None
        self._added: list[tuple[int, Iterator[str]]] = []
        self.size = self.text_size
        add = {"specials": self._specials, "codes": self._codes, "labels": self._labels, "mask": self._mask}
        for step in template.growth:
            add[step]()
        self.size = max([self.size, *(codes.end for codes in self.codes.values())])
        self._check()

    def added(self) -> Iterator[str]:
        """Names of the added tokens in the order of their ids: what ``tokenizer.add_tokens`` takes."""
        for _, tokens in sorted(self._added, key=lambda block: block[0]):
            yield from tokens

    def placeholder(self, rule: StreamRule) -> int:
        """The id that stands for a position of a stream whose values go beside."""
        return (
            self.specials[rule.placeholder]
            if isinstance(rule.placeholder, str)
            else int(rule.placeholder or 0)
        )

    def _add(self, count: int, tokens: Iterator[str]) -> int:
        start = self.size
        self.size += count
        if self.size > MOST_IDS:
            raise LayoutError(f"{self._template.system} would have {self.size} ids: split the codes")
        self._added.append((start, tokens))
        return start

    def _find(self, special: Special) -> int:
        if self._published and special.id is not None:
            return special.id
        if isinstance(self._text, Mapping) and special.token in self._text:
            return self._text[special.token]
        return self._add(1, iter([special.token]))

    def _specials(self) -> None:
        for name, special in self._template.specials.items():
            self.specials[name] = self._find(special)
        for name, choice in self._template.choices.items():
            self.choices[name] = {value: self._find(special) for value, special in choice.tokens.items()}

    def _labels(self) -> None:
        if self.num_labels:
            self.label_start = self._add(self.num_labels, (f"<label_{n}>" for n in range(self.num_labels)))

    def _mask(self) -> None:
        if self._template.mask is not None:
            self.mask_id = self._find(self._template.mask)

    def _codes(self) -> None:
        for name, order in self._orders.items():
            if order.rule.placeholder is None:
                self.codes[name] = self._codes_of(name, order)

    def _codes_of(self, name: str, order: StreamOrder) -> CodeIds:
        rule, sizes = order.rule, torch.tensor(order.sizes)
        table = self._named(name, rule, order.sizes[0])
        if table is not None and rule.own_ranges and len(sizes) > 1:
            raise LayoutError(
                f"{self._template.system}: groups with ids of their own cannot be found by name"
            )
        if table is not None:
            start = int(table[0])
            if not torch.equal(table, torch.arange(start, start + len(table))):
                return CodeIds(sizes * 0, sizes, table)
        offsets = sizes.cumsum(0) - sizes if rule.own_ranges else sizes * 0
        if table is None:
            count = int(sizes.sum() if rule.own_ranges else sizes.max())
            if self._published and rule.start is not None:
                start = rule.start
            else:
                start = self._add(count, (_token(rule, name, n) for n in range(count)))
        return CodeIds(offsets + start, sizes)

    def _named(self, name: str, rule: StreamRule, size: int) -> Tensor | None:
        if self._published and rule.table:
            if len(rule.table) != size:
                raise LayoutError(
                    f"{self._template.system} has ids for {len(rule.table)} codes, stream {name!r} has {size}"
                )
            return torch.tensor(rule.table)
        if not isinstance(self._text, Mapping) or not rule.token or _token(rule, name, 0) not in self._text:
            return None
        tokens = [_token(rule, name, n) for n in range(size)]
        missing = next((token for token in tokens if token not in self._text), None)
        if missing is not None:
            raise LayoutError(
                f"the text vocabulary has codes of {self._template.system} but not {missing!r}: "
                f"this tokenizer has {size} of them, was it trained for another?"
            )
        return torch.tensor([self._text[token] for token in tokens])

    def _check(self) -> None:
        fixed = [*self.specials.items()]
        fixed += [(name, id_) for name, ids in self.choices.items() for id_ in ids.values()]
        fixed += [("mask", self.mask_id)] if self.mask_id is not None else []
        names: dict[int, str] = {}
        for name, id_ in fixed:
            if id_ in names:
                raise self._meet(f"{names[id_]!r} and {name!r} both have the id {id_}")
            names[id_] = name
        wrong = next((id_ for id_ in names if id_ >= self.size), None)
        if wrong is not None:
            raise self._meet(f"{names[wrong]!r} has the id {wrong}, of {self.size} that there are")
        blocks = [(f"the codes of stream {name!r}", codes) for name, codes in self.codes.items()]
        if self.num_labels:
            labels = CodeIds(torch.tensor([self.label_start]), torch.tensor([self.num_labels]))
            blocks.append(("the labels", labels))
        ids = torch.tensor(list(names), dtype=torch.int64)
        for number, (told, codes) in enumerate(blocks):
            twice = codes.twice()
            if twice is not None:
                raise self._meet(f"two of {told} have the id {twice}")
            for group in range(len(codes.sizes)):
                meets = ids[~codes.to_values(ids, torch.full_like(ids, group))[1]]
                if len(meets):
                    id_ = int(meets[0])
                    raise self._meet(
                        f"{told} have the ids {codes.told(group)}, which meet {names[id_]!r} ({id_})"
                    )
            for other, others in blocks[:number]:
                met = codes.meeting(others)
                if met is not None:
                    raise self._meet(f"{told} and {other} both have the id {met}")
        self._check_names(names)

    def _check_names(self, fixed: Mapping[int, str]) -> None:
        """Refuses a text vocabulary in which another text has the id of a token of the layout."""
        if not isinstance(self._text, Mapping):
            return
        count = Counter(self._text.values())
        for id_ in (id_ for id_, number in count.items() if number > 1):
            own = fixed.get(id_)
            for name, codes in self.codes.items():
                at = torch.tensor([id_])
                coded = (codes.to_values(at, torch.tensor([group]))[1] for group in range(len(codes.sizes)))
                own = own if all(bool(wrong) for wrong in coded) else f"a code of {name}"
            if own is not None:
                first, second = [text for text, number in self._text.items() if number == id_][:2]
                raise self._meet(f"{first!r} and {second!r} of the text vocabulary both have the id {id_}")

    def _meet(self, reason: str) -> LayoutError:
        return LayoutError(
            f"{reason} in the vocabulary of {self._template.system}: give a text vocabulary of your own in which ids differ"
        )


def _token(rule: StreamRule, stream: str, number: int) -> str:
    pattern = rule.token or f"<{stream}_{{id}}>"
    return pattern.format(id=number, letters=str(number).translate(LETTERS))
