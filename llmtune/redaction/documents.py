"""JSON output: without secrets, without raw control characters, and always valid."""

from __future__ import annotations

import json
import math
from typing import Any

import orjson

from llmtune.redaction.control_chars import replace_controls
from llmtune.redaction.secrets import scrub_leaves


def dump_json(data: Any, *, indent: bool = True) -> str:
    """Return JSON data as text. Secrets are masked, control characters become escapes that JSON reads back.

    What JSON or its readers do not take never ends a list of a hundred good records: half a surrogate pair is written
    as an escape, a number that is not finite as null, an integer of more than 64 bits in full.
    """
    data = scrub_leaves(data)
    options = orjson.OPT_NON_STR_KEYS | (orjson.OPT_INDENT_2 if indent else 0)
    try:
        text = orjson.dumps(data, option=options).decode()
    except TypeError:
        separators = None if indent else (",", ":")
        text = json.dumps(_finite(data), indent=2 if indent else None, separators=separators, default=str)
    return replace_controls(text, _json_escape)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
