"""A grader as Python source that stands alone, for vendors whose graders are Python.

The functions are those of `llmtune.graders.scoring` and `llmtune.metrics`, taken as text, so that an answer has the
same score here and there. The source needs the standard library alone.
"""

from __future__ import annotations

import inspect
from typing import Any

from llmtune.graders import scoring
from llmtune.graders.scoring import get_range
from llmtune.job.graders import (
    Grader,
    MatchGrader,
    SimilarityGrader,
    ToolCallGrader,
    WeightedGrader,
    find_reference_field,
    list_parts,
)
from llmtune.metrics import labels, text

#: Kinds whose code needs a library or a network that a vendor may not have.
NOT_PORTABLE = {
    "judge": "it asks a model, which a vendor's Python graders cannot reach",
    "similarity": "its metrics need libraries that a vendor's graders may not have: write the comparison in Python",
    "schema": "it needs a library that a vendor's graders may not have: check the fields in Python, or match by json",
    "http": "a vendor's graders have no network to call an endpoint by",
    "lambda": "a vendor's graders have no network to call a function by",
}

_IMPORTS = """\
from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any


class Score:
    def __init__(self, value, error=""):
        self.value, self.error = value, error


"""

_SCORE = '''\
def _open(grader):
    if grader["kind"] == "python":
        names = {"__name__": "grader"}
        exec(compile(grader["source"], "grader.py", "exec"), names)
        return grader | {"grade": names["grade"]}
    if grader["kind"] == "weighted":
        return grader | {"parts": [part | {"grader": _open(part["grader"])} for part in grader["parts"]]}
    return grader


_GRADER = _open(json.loads(_FIELDS))


def score(row, answer, tool_calls):
    """Return the score of an answer to a row. Raises ValueError for what cannot be scored."""
    return _score(_GRADER, row, answer, tool_calls)


def _score(grader, row, answer, tool_calls):
    kind, low, high = grader["kind"], grader.get("low", 0.0), grader.get("high", 1.0)
    if kind == "weighted":
        total = weights = 0.0
        for part in grader["parts"]:
            inner = part["grader"]
            value = _score(inner, row, answer, tool_calls)
            total += part["weight"] * (value - inner["low"]) / (inner["high"] - inner["low"])
            weights += part["weight"]
        return total / weights
    part = grader.get("answer_from")
    if part is not None:
        answer = take_part(SimpleNamespace(regex=part.get("regex"), json_path=part.get("json_path")), answer)
        if answer is None:
            return low
    if kind == "python":
        value = float(grader["grade"](dict(row), answer))
        if not low <= value <= high:
            raise ValueError(f"it returned {value:g}, outside {low:g} to {high:g}")
        return value
    if kind == "regex":
        return float(re.search(grader["pattern"], answer) is not None)
    reference = _find_reference(grader, row)
    if reference is None:
        raise ValueError("the row has no reference")
    if kind == "tool_call":
        return _compare_calls(read_tool_calls(reference), tool_calls, names_only=grader["names_only"])
    result = _match(SimpleNamespace(**grader), reference, answer)
    if result.value is None:
        raise ValueError(result.error)
    return result.value


def _find_reference(grader, row):
    field = grader.get("reference")
    if field is not None:
        value = row
        for name in field.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value
    turn = _last_turn(row)
    if turn is None:
        return None
    return turn.get("tool_calls") if grader["kind"] == "tool_call" else turn.get("content")
'''


def find_obstacle(grader: Grader) -> str | None:
    """Return why a grader cannot be written as source, as a clause; None where it can."""
    for part in list_parts(grader):
        if part.kind in NOT_PORTABLE:
            return f"a grader of kind {part.kind} cannot run there: {NOT_PORTABLE[part.kind]}"
    return None


def needs_last_turn(grader: Grader) -> bool:
    """Return whether a grader reads the right answer from the row's last turn, and not from a field.

    Of several graders, one that does is enough.
    """
    parts = list_parts(grader)
    return find_reference_field(grader) is None or any(
        isinstance(part, MatchGrader | SimilarityGrader | ToolCallGrader) and part.reference is None for part in parts
    )


def write_source(grader: Grader) -> str:
    """Write a module with `score(row, answer, tool_calls) -> float`, of a grader for which `find_obstacle` is None.

    `tool_calls` are what `read_tool_calls`, which the module has too, makes of a list of calls.
    """
    import json

    constants = {
        "_TRAILING": labels._TRAILING,
        "_QUOTES": labels._QUOTES,
        "LONGEST_JSON": scoring.LONGEST_JSON,
        "_FIELDS": json.dumps(_describe(grader), ensure_ascii=True),
    }
    patterns = {"_NUMBER": text._NUMBER, "_AFTER_HASHES": text._AFTER_HASHES}
    functions = (
        labels.normalise,
        text.exact_match,
        text.normalised_match,
        text.same_json,
        text.final_number,
        text._decimal,
        scoring.to_text,
        scoring.take_part,
        scoring.find_json,
        scoring.read_tool_calls,
        scoring._compare_calls,
        scoring._last_turn,
        scoring._match,
    )
    lines = [f"{name} = {value!r}" for name, value in constants.items()]
    lines += [f"{name} = re.compile({pattern.pattern!r})" for name, pattern in patterns.items()]
    sources = [inspect.getsource(function) for function in functions]
    return "\n\n".join(["\n".join([_IMPORTS, *lines]), *sources, _SCORE])


def _describe(grader: Grader) -> dict[str, Any]:
    """Return the grader's fields, with the range of its scores, as the source reads them."""
    low, high = get_range(grader)
    fields = grader.model_dump(mode="json") | {"low": low, "high": high}
    if isinstance(grader, WeightedGrader):
        fields["parts"] = [{"weight": part.weight, "grader": _describe(part.grader)} for part in grader.parts]
    return fields
