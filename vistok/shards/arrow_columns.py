"""What a dataset said of its images, as typed columns: one for each field whose values have a common type."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vistok.errors import ShardError
from vistok.shards.container import ABSENT

EXACT_FLOAT = 1 << 53
MAX_TEXT = (1 << 31) - 1
JSON_COLUMN = "json"
_LIST = "list<item: "


def common_type(values: Sequence[Any]) -> Any:
    """The ``pyarrow.DataType`` that holds some JSON values, None among them; None if there is none.

    Integers and floats together are floats where that changes no value. Lists are typed if their elements are, so a
    crop box or several captions are columns too.
    """
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64() if all(-(1 << 63) <= v < 1 << 63 for v in values if v is not None) else None
    if kinds == {float} or (
        kinds == {int, float} and all(abs(v) <= EXACT_FLOAT for v in values if type(v) is int)
    ):
        return pa.float64()
    if kinds == {str}:
        sizes = [_text_bytes(value) for value in values if value is not None]
        return None if min(sizes) < 0 else pa.string() if sum(sizes) <= MAX_TEXT else pa.large_string()
    if kinds == {list}:
        elements = list(itertools.chain.from_iterable(value for value in values if value is not None))
        inner = None if any(isinstance(v, list) or v is None for v in elements) else common_type(elements)
        return None if inner is None else pa.list_(inner)
    return None


def to_columns(
    metas: Sequence[Mapping[str, Any]], reserved: Iterable[str]
) -> tuple[dict[str, Any], list[str]]:
    """Fields of each sample as ``pyarrow`` arrays by name, and the names of those in which null means absent.

    What has no common type, or the name of another column, goes to a column of JSON text, which is there only if
    something is in it; an empty text stands for nothing.
    """
    import pyarrow as pa

    taken = {JSON_COLUMN, *reserved}
    columns: dict[str, Any] = {}
    optional: list[str] = []
    rest: list[dict[str, Any]] = [{} for _ in metas]
    for name in sorted({name for meta in metas for name in meta}):
        values = [meta.get(name, ABSENT) for meta in metas]
        missing = any(value is ABSENT for value in values)
        plain = [None if value is ABSENT else value for value in values]
        kind = None
        if name not in taken and _text_bytes(name) > 0 and not (missing and any(v is None for v in values)):
            kind = common_type(plain)
        if kind is None:
            for place, value in enumerate(values):
                if value is not ABSENT:
                    rest[place][name] = value
            continue
        columns[name] = pa.array(plain, type=kind)
        if missing:
            optional.append(name)
    if any(rest):
        texts = [_json(fields) for fields in rest]
        columns[JSON_COLUMN] = pa.array(texts, type=common_type(texts))
    return columns, optional


def to_set_columns(
    metas: Sequence[Mapping[str, Any]], kinds: Mapping[str, str], text: bool
) -> tuple[dict[str, Any], list[str]]:
    """The same for columns that are set beforehand, whatever these samples have: all of them, null where absent.

    Args:
        metas: Fields of each sample.
        kinds: Arrow type by name of a column.
        text: Whether there is a column of JSON text although nothing is in it.

    Raises:
        ShardError: more text than a column holds.
    """
    columns: dict[str, Any] = {}
    rest = [dict(meta) for meta in metas]
    for name, kind in kinds.items():
        values = [fields.pop(name) if fits(fields.get(name), kind) else None for fields in rest]
        columns[name] = _set_column(name, values, kind)
    if text or any(rest):
        columns[JSON_COLUMN] = _set_column(JSON_COLUMN, [_json(fields) for fields in rest], "string")
    return columns, list(kinds)


def fits(value: Any, kind: str) -> bool:
    """Whether a column of that Arrow type holds a value as it is, or an integer as the float that equals it."""
    if kind.startswith(_LIST):
        inner = kind[len(_LIST) : -1]
        return type(value) is list and all(fits(element, inner) for element in value)
    if kind == "int64":
        return type(value) is int and -(1 << 63) <= value < 1 << 63
    if kind == "double":
        return type(value) is float or (type(value) is int and abs(value) <= EXACT_FLOAT)
    if kind == "string":
        return type(value) is str and _text_bytes(value) >= 0
    return kind == "bool" and type(value) is bool


class Column:
    """Reads values of a ``pyarrow`` array at some positions, without a Python object for any other.

    Args:
        array: Validated.
        optional: Whether null means absent.

    ``is_blank`` says whether it is of texts that are all empty.
    """

    def __init__(self, array: Any, optional: bool = False) -> None:
        import pyarrow as pa

        self._array, self._null = array, ABSENT if optional else None
        self._numbers: Any = None
        self._lists: tuple[Any, Any] | None = None
        self._all_null = False
        self._text: tuple[Any, memoryview] | None = None
        self.is_blank = False
        if array.null_count:
            self._all_null = array.null_count == len(array)
            return
        if pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
            self._numbers = array.to_numpy(zero_copy_only=True)
        elif pa.types.is_string(array.type) and len(array):
            _, offsets, data = array.buffers()
            ends = np.frombuffer(offsets, np.int32, len(array) + 1, array.offset * 4)
            self._text = ends, memoryview(data if data is not None else b"")
            self.is_blank = bool(ends[0] == ends[-1])
        elif (
            pa.types.is_list(array.type)
            and pa.types.is_integer(array.type.value_type)
            and not array.values.null_count
        ):
            offsets, values = array.offsets, array.values
            self._lists = offsets.to_numpy(zero_copy_only=True), values.to_numpy(zero_copy_only=True)

    def take(self, positions: Any) -> list[Any]:
        """The values at some positions."""
        if self._all_null:
            return [self._null] * len(positions)
        if self._numbers is not None:
            numbers: list[Any] = self._numbers[positions].tolist()
            return numbers
        if self._text is not None:
            ends, data = self._text
            starts, stops = ends[positions].tolist(), ends[np.add(positions, 1)].tolist()
            return [str(data[a:b], "utf-8") for a, b in zip(starts, stops, strict=True)]
        if self._lists is not None:
            bounds, elements = self._lists
            spans = zip(bounds[positions].tolist(), bounds[np.add(positions, 1)].tolist(), strict=True)
            return [elements[a:b].tolist() for a, b in spans]
        import pyarrow as pa

        values: list[Any] = self._array.take(pa.array(positions)).to_pylist()
        return values if self._null is None else [self._null if v is None else v for v in values]


def _set_column(name: str, values: Sequence[Any], kind: str) -> Any:
    import pyarrow as pa

    if kind == "string" and sum(_text_bytes(value) for value in values if value is not None) > MAX_TEXT:
        raise ShardError(f"a shard would hold more than {MAX_TEXT} bytes of {name!r}: lower shard_size")
    return pa.array(values, type=_type_of(kind))


def _json(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, allow_nan=False) if fields else ""


def _type_of(kind: str) -> Any:
    import pyarrow as pa

    return pa.list_(_type_of(kind[len(_LIST) : -1])) if kind.startswith(_LIST) else pa.type_for_alias(kind)


def _text_bytes(text: str) -> int:
    """Length in UTF-8; -1 for text that has none, such as the name of a file in another encoding."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return -1
