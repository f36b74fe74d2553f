"""How one system writes an image into a sequence: a template, which is data and one YAML file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vistok.errors import LayoutError

FOLDER = Path(__file__).parent / "templates"
GROWTH = ("specials", "codes", "labels", "mask")
CHOOSERS = ("h", "w", "H", "W", "N")


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
        groups: Where the S indices of a position go: ``stacked`` in a further axis, ``interleaved`` position by position
            or ``grouped`` one group after the other; empty takes one index a position only.
        own_ranges: Whether each group has ids of its own, instead of all sharing one range.
        split: Bits of the parts that each index is split into, most significant first; ``bits`` for one each.
        reversed: Whether the last position comes first, as it does anyway where the tokenizer's spec says so.
        patch: Side of the squares of positions that make one, latents only: (h, w, D) -> (h / p, w / p, p p D).
    """

    token: str = ""
    start: int | None = None
    table: tuple[int, ...] = ()
    placeholder: str | int | None = None
    latents: bool = False
    groups: Literal["", "stacked", "interleaved", "grouped"] = ""
    own_ranges: bool = False
    split: tuple[int, ...] | Literal["bits"] = ()
    reversed: bool = False
    patch: int = 1


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


_KINDS: dict[str, tuple[type, ...]] = {
    "token": (str,),
    "start": (int,),
    "table": (list,),
    "placeholder": (str, int),
    "latents": (bool,),
    "groups": (str,),
    "own_ranges": (bool,),
    "split": (list, str),
    "reversed": (bool,),
    "patch": (int,),
}
Item = str | Tokens | Text | Label
_ITEMS: dict[str, type[Tokens] | type[Text] | type[Label]] = {"tokens": Tokens, "text": Text, "label": Label}


@dataclass(frozen=True)
class Template:
    """All that is particular to one system.

    Args:
        system: Its name, for messages.
        sequence: What stands in a row: names of specials or choices, ``Tokens``, ``Text``, ``Label``.
        streams: By name. One alone is the tokenizer's first, whatever its name; several are its streams of those names.
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
        for name in self._used():
            if name and name not in self.specials and name not in self.choices:
                raise refuse(f"uses {name!r}, which is neither a special nor a choice of it")
        written = [item.tokens for item in self.sequence if isinstance(item, Tokens)]
        if not written or sorted(written) != sorted(self.streams):
            raise refuse(
                f"writes the streams {', '.join(written)} and defines {', '.join(self.streams)}: each must be there once"
            )

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
        import yaml

        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise LayoutError(f"a layout is not YAML: {' '.join(str(error).split())}") from error
        return _template(data)

    @classmethod
    def named(cls, name: str | Path) -> Template:
        """One that comes with vistok, by its name, or any YAML file, by its path.

        Raises:
            LayoutError: there is none.
        """
        path = Path(name)
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


def _template(data: Any) -> Template:
    if not isinstance(data, Mapping):
        raise LayoutError(f"a layout is a mapping of fields, this is {type(data).__name__}")
    fields = dict(data)
    if "like" in fields:
        base = _raw(str(fields.pop("like")))
        fields = {**base, **fields}
    system = str(fields.get("system", "an unnamed system"))
    where = f"the layout of {system}"
    known = {f.name for f in dataclasses.fields(Template)}
    _refuse_unknown(fields, known, where)
    for needed in ("sequence", "streams"):
        if needed not in fields:
            raise LayoutError(f"{where} has no {needed!r}")
    for name, kind, told in (
        ("sequence", list, "list"),
        ("growth", list, "list"),
        ("streams", Mapping, "mapping"),
        ("specials", Mapping, "mapping"),
        ("choices", Mapping, "mapping"),
    ):
        if name in fields and not isinstance(fields[name], kind):
            raise LayoutError(f"{where} has {name} = {fields[name]!r}, it must be a {told}")
    mask, published = fields.get("mask"), fields.get("text_vocabulary")
    return Template(
        system=system,
        sequence=tuple(_item(item, where) for item in fields["sequence"]),
        streams={
            name: _rule(rule or {}, f"{where}, stream {name!r},") for name, rule in fields["streams"].items()
        },
        specials={name: _special(value, where) for name, value in fields.get("specials", {}).items()},
        choices={
            name: _choice(value, f"{where}, choice {name!r},")
            for name, value in fields.get("choices", {}).items()
        },
        mask=None if mask is None else _special(mask, where),
        text_vocabulary=None if published is None else _integer(published, f"{where}: text_vocabulary"),
        growth=tuple(fields.get("growth", GROWTH)),
    )


def _raw(name: str) -> dict[str, Any]:
    import yaml

    if name not in names():
        raise LayoutError(f"a layout is like {name!r}, which vistok does not have: {', '.join(names())}")
    return dict(yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")))


def _refuse_unknown(fields: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(str(name) for name in fields if name not in known)
    if unknown:
        raise LayoutError(f"{where} has the field {unknown[0]!r}; it may have {', '.join(sorted(known))}")


def _integer(value: Any, what: str) -> int:
    if type(value) is not int:
        raise LayoutError(f"{what} is {value!r}, it must be an integer")
    return value


def _special(value: Any, where: str) -> Special:
    if isinstance(value, str):
        return Special(value)
    if isinstance(value, Mapping) and set(value) <= {"token", "id"} and isinstance(value.get("token"), str):
        number = value.get("id")
        return Special(
            value["token"], None if number is None else _integer(number, f"{where}: id of {value['token']}")
        )
    raise LayoutError(f"{where} has the special {value!r}: it must be a token or {{token, id}}")


def _choice(value: Any, where: str) -> Choice:
    if (
        not isinstance(value, Mapping)
        or set(value) != {"by", "tokens"}
        or not isinstance(value["tokens"], Mapping)
    ):
        raise LayoutError(f"{where} must be {{by, tokens}}")
    tokens = {
        _integer(key, f"{where} a value"): _special(token, where) for key, token in value["tokens"].items()
    }
    return Choice(str(value["by"]), tokens)


def _rule(value: Any, where: str) -> StreamRule:
    if not isinstance(value, Mapping):
        raise LayoutError(f"{where} is {value!r}, it must be a mapping of fields")
    _refuse_unknown(value, {f.name for f in dataclasses.fields(StreamRule)}, where)
    for name, kinds in _KINDS.items():
        if name in value and type(value[name]) not in kinds:
            told = " or ".join(kind.__name__ for kind in kinds)
            raise LayoutError(f"{where} has {name} {value[name]!r}: it must be {told}")
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
    rule = StreamRule(**fields)
    _check_pattern(rule.token, ("id", "letters"), where)
    if rule.groups not in ("", "stacked", "interleaved", "grouped"):
        raise LayoutError(f"{where} has groups {rule.groups!r}: stacked, interleaved or grouped")
    if rule.latents and rule.placeholder is None:
        raise LayoutError(f"{where} is continuous and needs a placeholder")
    if type(rule.patch) is not int or rule.patch < 1 or (rule.patch > 1 and not rule.latents):
        raise LayoutError(f"{where} has patch {rule.patch!r}: at least 1, and above it for latents only")
    return rule


def _check_pattern(pattern: str, fields: tuple[str, ...], where: str) -> None:
    try:
        pattern.format(**dict.fromkeys(fields, 0))
    except (KeyError, IndexError, ValueError) as error:
        raise LayoutError(
            f"{where} has the pattern {pattern!r}: it may have the fields {', '.join(fields)}"
        ) from error


def _item(value: Any, where: str) -> Item:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        for key, kind in _ITEMS.items():
            if key in value:
                _refuse_unknown(value, {f.name for f in dataclasses.fields(kind)}, f"{where}, item {key!r},")
                item = kind(**value)
                if isinstance(item, Text):
                    _check_pattern(item.text, CHOOSERS, where)
                return item
    raise LayoutError(
        f"{where} has the item {value!r}: it must be a name, or have one of {', '.join(_ITEMS)}"
    )
