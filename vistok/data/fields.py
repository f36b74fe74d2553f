"""Which columns, members or folders of a dataset become fields of its items."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vistok.errors import DataError

SHARD_FIELDS = frozenset(("size", "grid", "indices", "latents", "std", "streams", "lengths"))
"""Names that items of token shards and their batches have for themselves, beside ``key``."""

RESERVED = SHARD_FIELDS | {"source", "view", "position"}
"""The same with those of views and crops."""

LABEL_COLUMNS = ("label", "cls")
CAPTION_COLUMNS = ("caption", "text", "txt")


@dataclass(frozen=True)
class Fields:
    """What a user asked for: ``image=photo,key=id,caption=alt_text,width``.

    Args:
        image: Column or member that is the image; None: found.
        key: Column that is the key; None: made by the dataset.
        chosen: Column by the name of the item's field. ``label`` and ``caption`` are found where they are not chosen.
    """

    image: str | None = None
    key: str | None = None
    chosen: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Fields:
        """Reads ``[NAME=]COLUMN,...``.

        Raises:
            DataError: an empty or repeated name, or one that items have for themselves.
        """
        found: dict[str, str] = {}
        for part in text.split(",") if text else ():
            name, _, column = (piece.strip() for piece in part.partition("="))
            column = column if "=" in part else name
            if not name or not column:
                raise DataError(
                    f"fields {text!r} have an empty name: write them as width,caption=alt_text,image=photo"
                )
            if name in RESERVED:
                raise DataError(
                    f"field {name!r} is a name that token shards use themselves: rename it, as in my_{name}={column}"
                )
            if name in found:
                raise DataError(f"field {name!r} is asked for twice: leave one out, or rename it")
            found[name] = column
        return cls(found.pop("image", None), found.pop("key", None), found)

    def check(self, available: Iterable[str], where: str) -> None:
        """Makes sure that all that was asked for is there.

        Args:
            available: All columns.
            where: What has them, for the message.

        Raises:
            DataError: there is no such column.
        """
        names = list(available)
        asked = [column for column in (self.image, self.key, *self.chosen.values()) if column is not None]
        missing = next((column for column in asked if column not in names), None)
        if missing is not None:
            raise DataError(
                f"{where} has no {missing!r} to choose as a field: there is {', '.join(names) or 'none'}"
            )

    def columns(self, available: Collection[str]) -> dict[str, str]:
        """Column by field name: those chosen, and label and caption where there are such columns."""
        columns = dict(self.chosen)
        for name, known in (("label", LABEL_COLUMNS), ("caption", CAPTION_COLUMNS)):
            found = [column for column in known if column in available and column != self.image]
            if name not in columns and found and found[0] not in self.chosen.values():
                columns[name] = found[0]
        return columns

    def to_json_data(self) -> dict[str, str]:
        """Column by field name, for a run's fingerprint."""
        return {**({"image": self.image} if self.image else {}), **self.chosen}


def present(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields without those that are missing: None, and NaN or infinity, which JSON does not have."""
    return {
        name: value
        for name, value in values.items()
        if value is not None and not (isinstance(value, float) and not math.isfinite(value))
    }


def integer_or_text(value: str) -> int | str:
    """A label that is text in its file: a number if it is written as one."""
    digits = value.removeprefix("-")
    return int(value) if digits.isascii() and digits.isdigit() and len(digits) < 19 else value


def duplicate(key: str, first: str, second: str, remedy: str) -> DataError:
    """The error for a key that two samples have, naming where both are."""
    return DataError(f"key {key!r} is in {first} and again in {second}: {remedy}")
