"""What a command returns: frozen dataclasses in the code, one JSON object outside.

@dataclass(frozen=True)
class Trained:
    version: str
    pace: Pace | None = omitted()

as_json(Trained("000001-ab"))  # {"version": "000001-ab"}
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeAlias

JsonValue: TypeAlias = bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"] | None
JsonObject: TypeAlias = dict[str, JsonValue]
"""A JSON document, as `json.dumps` takes it."""

_OMITTED, _INLINED = "omitted", "inlined"


def omitted() -> Any:
    """A field of a dataclass that is left out of the JSON while it is None, its default."""
    return field(default=None, metadata={_OMITTED: True})


def inlined(optional: bool = False) -> Any:
    """A field that holds further figures, whose keys stand beside those of the dataclass it is in.

    Args:
        optional: its default is None, which adds no keys.
    """
    metadata = {_INLINED: True}
    return field(default=None, metadata=metadata) if optional else field(metadata=metadata)


def as_json(figures: object) -> JsonObject:
    """The JSON object of a dataclass or mapping: keys are the names of its fields, in their order.

    Enums become their values, paths strings, tuples lists, keys of mappings strings.

    Raises:
        TypeError: `figures`, or something in it, has no JSON.
    """
    value = _value(figures)
    if not isinstance(value, dict):
        raise TypeError(f"figures: given a {type(figures).__name__}; allowed: a dataclass or a mapping")
    return value


def _value(value: object) -> JsonValue:
    if is_dataclass(value) and not isinstance(value, type):
        return dict(_fields(value))
    match value:
        case enum.Enum():
            return _value(value.value)
        case None | bool() | int() | float() | str():
            return value
        case Path():
            return str(value)
        case Mapping():
            return {str(key): _value(each) for key, each in value.items()}
        case tuple() if hasattr(value, "_asdict"):
            return _value(value._asdict())
        case list() | tuple():
            return [_value(each) for each in value]
    raise TypeError(f"figures: a {type(value).__name__} has no JSON: {value!r}")


def _fields(figures: Any) -> Iterator[tuple[str, JsonValue]]:
    for each in fields(figures):
        value = getattr(figures, each.name)
        if value is None and (each.metadata.get(_OMITTED) or each.metadata.get(_INLINED)):
            continue
        if each.metadata.get(_INLINED):
            yield from as_json(value).items()
        else:
            yield each.name, _value(value)
