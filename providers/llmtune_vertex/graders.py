"""A grader as Vertex AI takes it: a reward configuration, with Python source or the address of a Cloud Run service.

Sources: google-genai 2.34 and 3.6.1 (types.py, SingleReinforcementTuningRewardConfig and its scorers); Google Cloud,
Reward functions (Gemini Enterprise Agent Platform, copy of 2026): rewards are clipped to -1..1, `evaluate` may take
100 s, a Cloud Run service 300 s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from llmtune.graders.scoring import get_range
from llmtune.graders.source import find_obstacle, needs_last_turn, write_source
from llmtune.job.graders import Grader, HttpGrader
from llmtune.provider import ConversionContext, Converted, ConvertedValue, NotConvertible

SOURCE = (
    "google-genai 2.34 SingleReinforcementTuningRewardConfig; Google Cloud, Reward functions (Agent Platform, 2026)"
)

#: Where a reward stands in the request.
PATH = "reinforcementTuningSpec.singleRewardConfig"

NAME = "llmtune"

#: References of a row: the turn that answers it rightly, and which of the row's other fields are no texts.
RIGHT_ANSWER = "right_answer"
JSON_FIELDS = "json_fields"

_EVALUATE = """\
def _text(parts):
    texts = [part["text"] for part in parts or () if isinstance(part.get("text"), str) and not part.get("thought")]
    return "".join(texts)


def _calls(parts):
    calls = [part["functionCall"] for part in parts or () if isinstance(part.get("functionCall"), Mapping)]
    return [{{"name": call.get("name"), "arguments": call.get("args") or {{}}}} for call in calls]


def _read_messages(example):
    messages = []
    system = example.get("systemInstruction")
    if system is not None:
        messages.append({{"role": "system", "content": _text(system.get("parts"))}})
    for content in example.get("contents") or ():
        parts = content.get("parts") or []
        role = "assistant" if content.get("role") == "model" else "user"
        results = [part["functionResponse"] for part in parts if isinstance(part.get("functionResponse"), Mapping)]
        for result in results:
            response = result.get("response")
            plain = response.get("content") if isinstance(response, Mapping) and len(response) == 1 else None
            text = plain if isinstance(plain, str) else json.dumps(response)
            messages.append({{"role": "tool", "name": result.get("name"), "content": text}})
        calls = _calls(parts)
        if calls or not results:
            message = {{"role": role, "content": _text(parts)}}
            if calls:
                message["tool_calls"] = [{{"type": "function", "function": call}} for call in calls]
            messages.append(message)
    return messages


def evaluate(example, response):
    references = dict(example.get("references") or {{}})
    turn = references.pop({right_answer!r}, None)
    json_fields = json.loads(references.pop({json_fields!r}, "[]"))
    row = {{name: json.loads(text) if name in json_fields else text for name, text in references.items()}}
    row["messages"] = _read_messages(example)
    if {last_turn} and turn is not None:
        row["messages"].append(json.loads(turn))
    parts = response.get("parts")
    return score(row, _text(parts), tuple(read_tool_calls(_calls(parts))))
"""


def write_grader_source(grader: Grader) -> str:
    """Return the Python source with `evaluate(example, response)`. Only where `find_obstacle` is None."""
    glue = _EVALUATE.format(right_answer=RIGHT_ANSWER, json_fields=JSON_FIELDS, last_turn=needs_last_turn(grader))
    return f"{write_source(grader)}\n\n{glue}"


def write_reward(grader: Grader) -> dict[str, Any]:
    """Return the reward configuration of a grader that Vertex AI can run, spelled as google-genai sends it."""
    reward: dict[str, Any] = {"rewardName": NAME, "parseResponseConfig": {"parse_type": "IDENTITY"}}
    if isinstance(grader, HttpGrader):
        return reward | {"cloudRunRewardScorer": {"cloud_run_uri": grader.url}}
    return reward | {"codeExecutionRewardScorer": {"python_code_snippet": write_grader_source(grader)}}


class _Mapping:
    """Any mapping that the rule below makes."""

    def error(self, value: Any) -> str | None:
        return None if isinstance(value, dict) else f"must be {self.describe()}, not {value!r}"

    def describe(self) -> str:
        return "a grader"


def _convert(grader: Any, _: ConversionContext) -> ConvertedValue | NotConvertible:
    low, high = get_range(grader)
    if low < -1 or high > 1:
        return NotConvertible(f"it pays {low:g} to {high:g}, and Vertex AI clips what is paid to -1 to 1", invalid=True)
    if isinstance(grader, HttpGrader):
        return _convert_http(grader)
    if obstacle := find_obstacle(grader):
        return NotConvertible(obstacle, invalid=True)
    rule = f"the kind {grader.kind} as Python code that scores as llmtune does"
    return ConvertedValue(write_reward(grader), rule)


def _convert_http(grader: HttpGrader) -> ConvertedValue | NotConvertible:
    if not (urlsplit(grader.url).hostname or "").endswith(".run.app"):
        return NotConvertible("Vertex AI calls services on Cloud Run alone (https://....run.app)", invalid=True)
    if grader.answer_from is not None:
        return NotConvertible(
            "the service is given the whole answer there: take its part in the service, without answer_from",
            invalid=True,
        )
    return ConvertedValue(
        write_reward(grader),
        "the kind http as a Cloud Run service that Google calls as its own identity, without a key, by"
        ' {"example", "response"}, and that answers {"reward"}',
    )


GRADER = Converted(
    PATH,
    _Mapping(),
    _convert,
    description="as Python code that scores as llmtune does, or a service on Cloud Run",
    default=None,
    source=SOURCE,
)


def write_references(fields: Mapping[str, Any], right_answer: Mapping[str, Any] | None) -> dict[str, str]:
    """Return a row's other fields and its right answer as references, which hold texts alone: other values as JSON,
    and their names in a list."""
    texts = {name: value if isinstance(value, str) else _dump(value) for name, value in fields.items()}
    if json_fields := [name for name, value in fields.items() if not isinstance(value, str)]:
        texts[JSON_FIELDS] = _dump(json_fields)
    if right_answer is not None:
        texts[RIGHT_ANSWER] = _dump(right_answer)
    return texts


def read_references(references: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return what `write_references` has written: the fields, and the right answer or None. Raises ValueError."""
    texts = dict(references)
    turn = texts.pop(RIGHT_ANSWER, None)
    json_fields = json.loads(texts.pop(JSON_FIELDS, "[]"))
    fields = {name: json.loads(text) if name in json_fields else text for name, text in texts.items()}
    return fields, None if turn is None else json.loads(turn)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
