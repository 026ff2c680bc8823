"""Everything AWS's own service model says of a request. botocore itself checks only part of it: no maximum, no
pattern, no enum. Pure and offline; botocore is imported when it is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

#: AWS's pattern for a job name backtracks exponentially in Python's `re` ("a" and 26 hyphens take seconds); the
#: second one accepts exactly the same names in linear time.
_JOB_NAME = r"[a-zA-Z0-9](-*[a-zA-Z0-9\+\-\.])*"
_LINEAR = {_JOB_NAME: r"[a-zA-Z0-9][a-zA-Z0-9+.\-]*"}


@cache
def service(name: str) -> Any:
    """Return botocore's model of a service."""
    import botocore.session

    return botocore.session.get_session().get_service_model(name)


def faults(service_name: str, operation: str, value: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List what is wrong with the input of an operation: (dotted path, what is wrong)."""
    shape = service(service_name).operation_model(operation).input_shape
    return list(_check(value, shape, ""))


def _check(value: Any, shape: Any, path: str) -> Iterator[tuple[str, str]]:
    checks = {"structure": _structure, "map": _map, "list": _list, "string": _string}
    if shape.type_name in checks:
        yield from checks[shape.type_name](value, shape, path)
    elif shape.type_name in ("integer", "long", "float", "double"):
        yield from _number(value, shape, path)
    elif shape.type_name == "boolean" and not isinstance(value, bool):
        yield path, f"must be true or false, not {value!r}"


def _structure(value: Any, shape: Any, path: str) -> Iterator[tuple[str, str]]:
    if getattr(shape, "is_document_type", False):
        return
    if not isinstance(value, Mapping):
        yield path, f"must be an object, not {value!r}"
        return
    for name in shape.required_members:
        if name not in value:
            yield _join(path, name), "is missing"
    for name, inner in value.items():
        if name not in shape.members:
            yield _join(path, name), "is not a member of this request"
        else:
            yield from _check(inner, shape.members[name], _join(path, name))
    if shape.metadata.get("union") and len(value) != 1:
        yield path, f"must have exactly one of {', '.join(shape.members)}"


def _map(value: Any, shape: Any, path: str) -> Iterator[tuple[str, str]]:
    if not isinstance(value, Mapping):
        yield path, f"must be an object, not {value!r}"
        return
    for key, inner in value.items():
        yield from _check(key, shape.key, _join(path, key))
        yield from _check(inner, shape.value, _join(path, key))


def _list(value: Any, shape: Any, path: str) -> Iterator[tuple[str, str]]:
    if not isinstance(value, list):
        yield path, f"must be a list, not {value!r}"
        return
    yield from _size(len(value), shape, path, "entries")
    for at, inner in enumerate(value):
        yield from _check(inner, shape.member, f"{path}[{at}]")


def _string(value: Any, shape: Any, path: str) -> Iterator[tuple[str, str]]:
    if not isinstance(value, str):
        yield path, f"must be text, not {value!r}"
        return
    too_long = list(_size(len(value), shape, path, "characters"))
    yield from too_long
    if shape.enum and value not in shape.enum:
        yield path, f"must be one of {', '.join(shape.enum)}, not {value!r}"
    pattern = shape.metadata.get("pattern")
    if pattern and not too_long and not re.fullmatch(_LINEAR.get(pattern, pattern), value):
        yield path, f"must match {pattern}, not {value!r}"


def _number(value: Any, shape: Any, path: str) -> Iterator[tuple[str, str]]:
    kinds = (int,) if shape.type_name in ("integer", "long") else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool):
        yield path, f"must be a number, not {value!r}"
        return
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if (low is not None and value < low) or (high is not None and value > high):
        yield path, f"must be from {low} to {high}, not {value!r}"


def _size(size: int, shape: Any, path: str, what: str) -> Iterator[tuple[str, str]]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and size < low:
        yield path, f"must have at least {low} {what}, not {size}"
    if high is not None and size > high:
        yield path, f"must have at most {high} {what}, not {size}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
