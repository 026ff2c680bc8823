"""Shapes: declarations of the fields that a fake vendor accepts, and the check of requests against them.

A shape is written as plain Python:

    {"model": Required(str), "suffix": str, "n_epochs": (int, {"auto"}), "metadata": {...: str}, "rows": [dict]}

A type means a value of that type (`float` includes whole numbers, `int` excludes booleans); a dict, an object with only
these keys; a dict whose only key is `...`, an object with any keys; a list, an array of the given shape; a tuple, any
of its members; a set, one of its values; None, null; `Any`, anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Required:
    """A required field, of the given `shape`."""

    shape: Any


def violations(value: Any, shape: Any, path: str = "") -> list[tuple[str, str]]:
    """Return the errors of `value` as (dotted path, what is wrong); an empty list if it has this `shape`.

    `path` is the path of the value itself.
    """
    if isinstance(shape, Required):
        shape = shape.shape
    if shape is Any:
        return []
    if shape is None:
        return [] if value is None else [(path, "must be null")]
    if isinstance(shape, type):
        return [] if _is(value, shape) else [(path, f"must be {shape.__name__}, not {_short(value)}")]
    if isinstance(shape, (set, frozenset)):
        listed = ", ".join(sorted(map(repr, shape)))
        return [] if _among(value, shape) else [(path, f"must be one of {listed}, not {_short(value)}")]
    if isinstance(shape, tuple):
        tried = [violations(value, member, path) for member in shape]
        return min(tried, key=len) if all(tried) else []
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [(path, f"must be an array, not {_short(value)}")]
        return [fault for at, entry in enumerate(value) for fault in violations(entry, shape[0], f"{path}[{at}]")]
    if isinstance(shape, Mapping):
        return _in_object(value, shape, path)
    raise TypeError(f"not a shape: {shape!r}")


def _in_object(value: Any, shape: Mapping[Any, Any], path: str) -> list[tuple[str, str]]:
    if not isinstance(value, Mapping):
        return [(path, f"must be an object, not {_short(value)}")]
    if set(shape) == {...}:
        return [
            fault
            for key, inner_value in value.items()
            for fault in violations(inner_value, shape[...], _join(path, key))
        ]
    faults = [(_join(path, key), "is not a field of this request") for key in value if key not in shape]
    for key, inner in shape.items():
        if key in value:
            faults += violations(value[key], inner, _join(path, key))
        elif isinstance(inner, Required):
            faults.append((_join(path, key), "is missing"))
    return faults


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _among(value: Any, allowed: set[Any] | frozenset[Any]) -> bool:
    # True == 1 in Python, but not in JSON.
    return any(value == member and isinstance(value, bool) == isinstance(member, bool) for member in allowed)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
