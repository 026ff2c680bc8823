"""JSON inside rows (arguments of tool calls, results of tools), read and written with all digits of its integers."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import orjson

from llmtune.data.findings import Finding, error

if TYPE_CHECKING:
    from llmtune.data.example import Example

#: Digits of an integer that may not fit into 64 bits, which orjson reads as a float and so changes.
_LONG_INTEGER = re.compile(r"\d{19}")


def load_json(text: str) -> Any:
    """Parse a JSON text, with all digits of its integers. Raises `ValueError`."""
    return json.loads(text) if _LONG_INTEGER.search(text) else orjson.loads(text)


def dump_json(value: Any) -> str:
    """Serialise a value as compact JSON text, with integers of any length."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def find_long_number(value: Any) -> int | float | None:
    """Return the first integer above 64 bits in a JSON value, or the float it was read as; None where there is none."""
    if isinstance(value, dict):
        return next((number for part in value.values() if (number := find_long_number(part)) is not None), None)
    if isinstance(value, list):
        return next((number for part in value if (number := find_long_number(part)) is not None), None)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) >= 1 << 63:
        return value if value == value // 1 and abs(value) != float("inf") else None
    return None


def check_long_numbers(example: Example, name: str) -> list[Finding]:
    """Return an error for a call with an integer above 64 bits, for formats that hold arguments as objects."""
    answers = (*example.preference.preferred, *example.preference.rejected) if example.preference else ()
    for index, message in enumerate((*example.messages, *answers)):
        for call in message.tool_calls:
            if _LONG_INTEGER.search(call.arguments) and find_long_number(load_json(call.arguments)) is not None:
                what = f"{name} rows hold arguments as an object, whose integers above 64 bits would lose digits"
                return [
                    error(
                        "cannot-number",
                        f"{what} (messages[{index}], {call.name!r})",
                        "write the number as a string, in the rows and in the tool's schema",
                    )
                ]
    return []
