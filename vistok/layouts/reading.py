"""Reads a template from YAML; the first wrong field is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from vistok.errors import LayoutError
from vistok.layouts.template import (
    CHOOSERS,
    FOLDER,
    GROWTH,
    TOPOLOGIES,
    Choice,
    Item,
    Label,
    Special,
    StreamRule,
    Template,
    Text,
    Tokens,
    names,
)

# what stream specs name
COMBINATORS = ("single", "product", "residual", "multiscale", "conditional", "shared_index")
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
    "reads": (str,),
    "topology": (str, list),
    "combinator": (str, list),
}
_ITEMS: dict[str, type[Tokens] | type[Text] | type[Label]] = {"tokens": Tokens, "text": Text, "label": Label}


def read_template(text: str) -> Template:
    """YAML to a template.

    Raises:
        LayoutError: not YAML, or not of this form; the message names the first wrong field.
    """
    import yaml

    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise LayoutError(f"a layout is not YAML: {' '.join(str(error).split())}") from error
    return _template(data)


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
    if not all(isinstance(step, str) for step in fields.get("growth", ())):
        raise LayoutError(f"{where} has growth = {fields['growth']!r}: it must be a list of names")
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


def _integer(value: Any, what: str, least: int = 0) -> int:
    if type(value) is not int or value < least:
        raise LayoutError(f"{what} is {value!r}, it must be an integer of at least {least}")
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
    for name, known in (("topology", TOPOLOGIES), ("combinator", COMBINATORS)):
        if name in fields:
            fields[name] = (fields[name],) if isinstance(fields[name], str) else fields[name]
            wrong = next((one for one in fields[name] if one not in known), None)
            if wrong is not None:
                raise LayoutError(f"{where} has {name} {wrong!r}: it must be of {', '.join(known)}")
    rule = StreamRule(**fields)
    _check_pattern(rule.token, ("id", "letters"), where)
    for number in (*rule.table, *([] if rule.start is None else [rule.start])):
        _integer(number, f"{where} an id of its codes")
    if isinstance(rule.split, str) and rule.split != "bits":
        raise LayoutError(f"{where} has split {rule.split!r}: bits, or a list of how many")
    for number in () if rule.split == "bits" else rule.split:
        _integer(number, f"{where} one of split", 1)
    if isinstance(rule.placeholder, int) and rule.placeholder >= 0:
        raise LayoutError(
            f"{where} has placeholder {rule.placeholder}: the name of a special, or an id below 0"
        )
    if rule.groups not in get_args(get_type_hints(StreamRule)["groups"]):
        raise LayoutError(f"{where} has groups {rule.groups!r}: stacked, interleaved, grouped or beside")
    if rule.groups and (rule.placeholder is not None) != (rule.groups == "beside"):
        raise LayoutError(
            f"{where} has groups {rule.groups!r}: with a placeholder they go beside, and only then"
        )
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
                wrong = next(
                    (name for name in value if not isinstance(value[name], (int if kind is Label else str))),
                    None,
                )
                if wrong is not None:
                    raise LayoutError(
                        f"{where}, item {key!r}, has {wrong} {value[wrong]!r}: it must be {'an integer' if kind is Label else 'text'}"
                    )
                item = kind(**value)
                if isinstance(item, Label):
                    _integer(item.label, f"{where}: label", 1)
                if isinstance(item, Text):
                    _check_pattern(item.text, CHOOSERS, where)
                return item
    raise LayoutError(
        f"{where} has the item {value!r}: it must be a name, or have one of {', '.join(_ITEMS)}"
    )
