"""What the members of a tar's sample are: its image, its label and caption, and chosen fields of its JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from typing import Any

from vistok.data.fields import Fields, present
from vistok.errors import DataError, ImageError
from vistok.tokenizer.images import SUFFIXES

IMAGE_MEMBERS = tuple(suffix[1:] for suffix in SUFFIXES)
NUM_LOOKED_AT = 16


def image_field(members: Collection[str], wanted: str | None, key: str) -> str:
    """Which member of a sample is its image.

    Raises:
        ImageError: none, or several.
    """
    names = (
        [name for name in members if name in IMAGE_MEMBERS]
        if wanted is None
        else [wanted] * (wanted in members)
    )
    if len(names) == 1:
        return names[0]
    have = ", ".join(sorted(members))
    if names:
        raise ImageError(
            f"sample {key!r} has several images ({', '.join(sorted(names))}): say which with image_field, or fields image=NAME"
        )
    raise ImageError(f"sample {key!r} has no image, its members are {have}: remove it, or set image_field")


def read_fields(
    members: Collection[str], read: Callable[[str], bytes], fields: Fields, key: str
) -> dict[str, Any]:
    """``label``, ``caption`` and the chosen fields of a sample, where it has them.

    Args:
        members: Names of its members.
        read: Gives the bytes of one.
        fields: What to take of ``json``; a name that ``json`` lacks may be a member of text.
        key: For error messages.

    Raises:
        DataError: they cannot be read.
    """
    found: dict[str, Any] = {}
    chosen = fields.chosen
    name = ""
    try:
        data: dict[str, Any] = {}
        if "json" in members and (chosen or not ("cls" in members and "txt" in members)):
            name = "json"
            loaded = json.loads(read(name))
            data = loaded if isinstance(loaded, dict) else {"label": loaded}
            found |= {"label": data["label"]} if type(data.get("label")) is int else {}
            found |= {"caption": data["caption"]} if isinstance(data.get("caption"), str) else {}
        if "cls" in members and "label" not in chosen:
            name = "cls"
            found["label"] = int(read(name))
        if "txt" in members and "caption" not in chosen:
            name = "txt"
            found["caption"] = read(name).decode()
        for field, column in chosen.items():
            found.pop(field, None)
            name = column
            if column in data:
                found[field] = data[column]
            elif column in members:
                text = read(column).decode()
                found[field] = int(text) if column == "cls" else text
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"member {name!r} of sample {key!r} cannot be read: {' '.join(str(error).split())}"
        ) from error
    return present(found)


def check_chosen(fields: Fields, samples: Iterable[dict[str, Any]], where: str) -> None:
    """Makes sure that each chosen field is in at least one of the first samples.

    Args:
        fields: What was asked for.
        samples: The fields of some samples, as ``read_fields`` gives them.
        where: For the message.

    Raises:
        DataError: a field is in none.
    """
    if fields.key is not None:
        raise DataError(f"{where} names its samples itself: leave out key={fields.key}")
    looked_at = list(samples)
    missing = [name for name in fields.chosen if not any(name in sample for sample in looked_at)]
    if missing:
        raise DataError(
            f"none of the first {len(looked_at)} samples of {where} has {fields.chosen[missing[0]]!r}, in its json "
            "or as a member: check the name of the field"
        )
