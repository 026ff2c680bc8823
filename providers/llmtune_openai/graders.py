"""A grader as services with OpenAI's API take it: Python source with `grade(sample, item)`.

Sources: openai 3.57.0 (types/graders/python_grader.py) for the fields; Microsoft's azure-skills (2026-08-21) for the
limits: 256 KB of source, 2 GB of memory, 2 minutes, no network.
"""

from __future__ import annotations

from typing import Any

from llmtune.graders.source import find_obstacle, needs_last_turn, write_source
from llmtune.job.graders import Grader
from llmtune.provider import ConversionContext, Converted, ConvertedValue, NotConvertible

SOURCE = "openai 3.57.0 (types/graders/python_grader.py); Microsoft azure-skills (2026-08-21)"
LARGEST_SOURCE = 256 * 1024

#: The key of a training row with the turn that answers it rightly, for graders that read no field of their own.
RIGHT_ANSWER = "right_answer"

_GRADE = """\
def grade(sample, item):
    row = dict(item)
    turn = row.pop({key!r}, None)
    if {last_turn} and turn is not None:
        row["messages"] = [*row["messages"], turn]
    tool_calls = tuple(read_tool_calls(sample.get("output_tools") or []))
    return score(row, sample.get("output_text") or "", tool_calls)
"""


class _Mapping:
    """Any mapping that the rule below makes."""

    def error(self, value: Any) -> str | None:
        return None if isinstance(value, dict) else f"must be {self.describe()}, not {value!r}"

    def describe(self) -> str:
        return "a grader"


def write_grader(grader: Grader) -> dict[str, Any]:
    """Return the service's grader. Only of a grader for which `find_obstacle` is None."""
    glue = _GRADE.format(key=RIGHT_ANSWER, last_turn=needs_last_turn(grader))
    return {"type": "python", "name": "llmtune", "source": f"{write_source(grader)}\n\n{glue}"}


def _convert(grader: Any, _: ConversionContext) -> ConvertedValue | NotConvertible:
    if obstacle := find_obstacle(grader):
        return NotConvertible(obstacle, invalid=True)
    written = write_grader(grader)
    size = len(written["source"].encode())
    if size > LARGEST_SOURCE:
        return NotConvertible(f"its source has {size:,} bytes, and {LARGEST_SOURCE:,} are taken", invalid=True)
    return ConvertedValue(written, f"the kind {grader.kind} as a grader of kind python that scores as llmtune does")


GRADER = Converted(
    "method.reinforcement.grader",
    _Mapping(),
    _convert,
    description="as a grader in Python that scores as llmtune does",
    default=None,
    source=SOURCE,
)
