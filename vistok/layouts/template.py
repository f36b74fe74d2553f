"""How one system writes an image into a sequence: a template, which is data and one YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Literal, get_args

from vistok.errors import LayoutError
from vistok.spec import Topology

FOLDER = Path(__file__).parent / "templates"
GROWTH = ("specials", "codes", "labels", "mask")
CHOOSERS = ("h", "w", "H", "W", "N")
TOPOLOGIES: tuple[Topology, ...] = get_args(Topology)


@dataclass(frozen=True)
class Special:
    """One token with a fixed meaning.

    Args:
        token: Its name in a text vocabulary.
        id: Its published id; None where it is added at the end of the text vocabulary.
    """

    token: str
    id: int | None = None


@dataclass(frozen=True)
class Choice:
    """A token that says something about the image, one of several.

    Args:
        by: What chooses: token rows ``h``, columns ``w``, pixels ``H``, ``W``, or the number of positions ``N``.
        tokens: The token of each value.
    """

    by: str
    tokens: Mapping[int, Special]


@dataclass(frozen=True)
class StreamRule:
    """How the tokens of one stream become ids.

    Args:
        token: Pattern of their names in a text vocabulary, of ``{id}`` or ``{letters}`` (its digits as A to J); empty where
            they have no names there.
        start: Published id of code 0; None where codes are added at the end of the text vocabulary.
        table: Published ids of all codes, instead of ``start``.
        placeholder: The special, or an id below 0 that no vocabulary has, that stands for each position; the values then
            travel beside the ids. None where the ids are the values.
        latents: Whether the stream is continuous.
        groups: Where the S indices of a position go: ``stacked`` in a further axis, ``interleaved`` position by position,
            ``grouped`` one group after the other, or ``beside`` the ids where placeholders stand for positions; empty
            takes one index a position only.
        own_ranges: Whether each group has ids of its own, instead of all sharing one range.
        split: Bits of the parts that each index is split into, most significant first; ``bits`` for one each.
        reversed: Whether the last position comes first, as it does anyway where the tokenizer's spec says so.
        patch: Side of the squares of positions that make one, latents only: (h, w, D) -> (h / p, w / p, p p D).
        reads: Name of the tokenizer's stream; empty for the only one, or where there are several for the one of this name.
        topology: Which topologies of ``StreamSpec`` the system takes; empty for any that the sequence can write: marks
            between rows and headers of h, w, H, W need a grid, marks of scales scales, squares of latents one grid.
        combinator: Which combinators of ``StreamSpec`` the indices of a position may have; empty for any.
    """

    token: str = ""
    start: int | None = None
    table: tuple[int, ...] = ()
    placeholder: str | int | None = None
    latents: bool = False
    groups: Literal["", "stacked", "interleaved", "grouped", "beside"] = ""
    own_ranges: bool = False
    split: tuple[int, ...] | Literal["bits"] = ()
    reversed: bool = False
    patch: int = 1
    reads: str = ""
    topology: tuple[Topology, ...] = ()
    combinator: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tokens:
    """In a sequence: all tokens of a stream, with separators."""

    tokens: str
    after_row: str = ""
    between_rows: str = ""
    before_scale: str = ""
    between_scales: str = ""


@dataclass(frozen=True)
class Text:
    """In a sequence: text about the image.

    Its fields, as those that choose, are of the first of the template's streams: ``{h}``, ``{w}`` (rows and columns of tokens),
    ``{H}``, ``{W}`` (pixels), ``{N}`` (positions).
    """

    text: str


@dataclass(frozen=True)
class Label:
    """In a sequence: a class label, one of ``label``."""

    label: int


Item = str | Tokens | Text | Label


@dataclass(frozen=True)
class Template:
    """All that is particular to one system.

    Args:
        system: Its name, for messages.
        sequence: What stands in a row: names of specials or choices, ``Tokens``, ``Text``, ``Label``.
        streams: By name. One alone is the tokenizer's only one, whatever its name; several are its streams of those names.
            Which it reads of more is what each ``reads`` says.
        specials: By the name that the sequence uses.
        choices: Likewise.
        mask: The token of positions that a masked model has yet to fill; None for others.
        text_vocabulary: Published size of the text vocabulary, 0 where there is none; None where the ids are not published.
        growth: In which order ids are added to it: ``specials`` (with choices), ``codes``, ``labels``, ``mask``.

    Raises:
        LayoutError: a name that is used and not defined, or defined twice.
    """

    system: str
    sequence: tuple[Item, ...]
    streams: Mapping[str, StreamRule]
    specials: Mapping[str, Special] = field(default_factory=dict)
    choices: Mapping[str, Choice] = field(default_factory=dict)
    mask: Special | None = None
    text_vocabulary: int | None = None
    growth: tuple[str, ...] = GROWTH

    def __post_init__(self) -> None:
        def refuse(reason: str) -> LayoutError:
            return LayoutError(f"the layout of {self.system} {reason}")

        twice = sorted(set(self.specials) & set(self.choices))
        if twice:
            raise refuse(f"defines {twice[0]!r} as a special and as a choice")
        if sorted(self.growth) != sorted(GROWTH):
            raise refuse(f"grows by {', '.join(self.growth)}: it must name each of {', '.join(GROWTH)}")
        for name, choice in self.choices.items():
            if choice.by not in CHOOSERS:
                raise refuse(f"chooses {name!r} by {choice.by!r}: it must be one of {', '.join(CHOOSERS)}")
        tokens = [special.token for special in self._specials()]
        double = next((token for token in tokens if tokens.count(token) > 1), None)
        if double is not None:
            raise refuse(f"has the token {double!r} twice: use one name of it in the sequence")
        if sum(isinstance(item, Label) for item in self.sequence) > 1:
            raise refuse("has two class labels: one goes into a sequence")
        for name in self._used():
            if name and name not in self.specials and name not in self.choices:
                raise refuse(f"uses {name!r}, which is neither a special nor a choice of it")
        written = [item.tokens for item in self.sequence if isinstance(item, Tokens)]
        if not written or sorted(written) != sorted(self.streams):
            raise refuse(
                f"writes the streams {', '.join(written)} and defines {', '.join(self.streams)}: each must be there once"
            )

        for name, rule in self.streams.items():
            beyond = next((told for told in rule.topology if told not in self._writable(name)), None)
            if beyond is not None:
                raise refuse(
                    f"takes topology {beyond} for {name!r}, which its marks, headers or squares cannot write"
                )

    def topologies(self, stream: str) -> tuple[Topology, ...]:
        """Which a stream may have, by its name: those that its rule says, or all that the sequence can write."""
        return self.streams[stream].topology or self._writable(stream)

    def _writable(self, stream: str) -> tuple[Topology, ...]:
        (item,) = (item for item in self.sequence if isinstance(item, Tokens) and item.tokens == stream)
        if self.streams[stream].patch > 1:
            return ("2d",)
        if item.before_scale or item.between_scales:
            return ("multiscale",)
        first = stream == next(iter(self.streams))
        if item.after_row or item.between_rows or (first and self._says_sides()):
            return ("2d", "multiscale")
        return TOPOLOGIES

    def _says_sides(self) -> bool:
        """Whether something in the sequence is about rows and columns."""
        texts = "".join(item.text for item in self.sequence if isinstance(item, Text))
        chosen = {choice.by for name, choice in self.choices.items() if name in self.sequence}
        return bool((chosen | {field for _, field, _, _ in Formatter().parse(texts) if field}) - {"N"})

    def _specials(self) -> list[Special]:
        chosen = [special for choice in self.choices.values() for special in choice.tokens.values()]
        return [*self.specials.values(), *chosen, *([] if self.mask is None else [self.mask])]

    def _used(self) -> list[str]:
        used = [item for item in self.sequence if isinstance(item, str)]
        for item in self.sequence:
            if isinstance(item, Tokens):
                used += [item.after_row, item.between_rows, item.before_scale, item.between_scales]
        return used + [
            rule.placeholder for rule in self.streams.values() if isinstance(rule.placeholder, str)
        ]

    @classmethod
    def from_yaml(cls, text: str) -> Template:
        """Reads a template.

        Raises:
            LayoutError: not YAML, or not of this form; the message names the first wrong field.
        """
        from vistok.layouts.reading import read_template

        if not isinstance(text, str):
            raise LayoutError(f"a layout is a YAML text, it is given as a {type(text).__name__}")
        return read_template(text)

    @classmethod
    def named(cls, name: str | Path) -> Template:
        """One that comes with vistok, by its name, or any YAML file, by its path.

        Raises:
            LayoutError: there is none.
        """
        path = Path(str(name))
        if path.suffix not in (".yaml", ".yml"):
            path = FOLDER / f"{name}.yaml"
        try:
            return cls.from_yaml(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise LayoutError(
                f"there is no layout {str(name)!r}: give the path of a YAML file or one of {', '.join(names())}"
            ) from error


def names() -> list[str]:
    """The layouts that come with vistok."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))
