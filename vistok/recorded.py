"""Constructor arguments, remembered, so that a module can be saved as JSON and built again."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

from vistok.errors import TokenizerError


class Recorded:
    """Remembers the arguments that an object was constructed with.

    ``to_config`` gives them as JSON data; ``build`` makes the object again. Arguments named in ``not_saved`` are
    left at their default (where to fetch initial weights from, say: the weights themselves are saved).
    """

    not_saved: ClassVar[frozenset[str]] = frozenset()
    _arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Records, then constructs as usual."""
        self = super().__new__(cls)
        try:
            bound = inspect.signature(cls).bind(*args, **kwargs)
        except TypeError:
            # copy and pickle call __new__ bare and restore the record themselves; a wrong call fails in __init__
            return self
        bound.apply_defaults()
        object.__setattr__(self, "_arguments", dict(bound.arguments))
        return self

    def to_config(self) -> dict[str, Any]:
        """The class name and the arguments, as JSON data.

        Raises:
            TokenizerError: an argument that is neither JSON nor a recorded object.
        """
        arguments = {
            k: _encode(v, type(self).__name__, k)
            for k, v in self._arguments.items()
            if k not in self.not_saved
        }
        return {"class": type(self).__name__, "args": arguments}


def build(config: Mapping[str, Any], classes: Mapping[str, type]) -> Any:
    """Makes the object that ``to_config`` described, from classes named in ``classes`` and from no others.

    Raises:
        TokenizerError: an unknown class, or arguments that its constructor refuses.
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("args", {}), Mapping):
        raise TokenizerError("a part of the config is not {class, args}")
    name = config.get("class")
    if not isinstance(name, str) or name not in classes:
        raise TokenizerError(
            f"the config names class {name!r}, which vistok does not export; it exports {', '.join(sorted(classes))}"
        )
    cls = classes[name]
    if hasattr(cls, "from_json_data"):
        return cls.from_json_data(config.get("args", {}))
    arguments = {key: _decode(value, classes) for key, value in dict(config.get("args", {})).items()}
    try:
        return cls(**arguments)
    except (TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise TokenizerError(f"{name} cannot be built from its config: {error}") from error


def _encode(value: Any, owner: str, key: str) -> Any:
    if isinstance(value, Recorded):
        return value.to_config()
    if hasattr(value, "to_json_data"):
        return {"class": type(value).__name__, "args": value.to_json_data()}
    if isinstance(value, Mapping):
        return {str(k): _encode(v, owner, key) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(v, owner, key) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TokenizerError(
        f"{owner} was given {key}={type(value).__name__}, which cannot be saved: pass plain data or a vistok module"
    )


def _decode(value: Any, classes: Mapping[str, type]) -> Any:
    if isinstance(value, Mapping):
        if "class" in value or "args" in value:
            if set(value) != {"class", "args"}:
                raise TokenizerError(
                    f"a part of the config has the fields {', '.join(map(str, value))}, not class and args"
                )
            return build(value, classes)
        return {k: _decode(v, classes) for k, v in value.items()}
    if isinstance(value, list):
        return [_decode(v, classes) for v in value]
    return value
