"""A grader as source scores 200 answers as llmtune itself does, in the wrapper of the service that takes it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from llmtune.graders import Answer, GraderProcess, make_grader
from llmtune.graders.scoring import read_tool_calls
from llmtune.graders.source import find_obstacle, write_source
from llmtune.job.graders import Grader
from llmtune_bedrock.graders import write_grader_source
from llmtune_openai.graders import write_grader
from llmtune_vertex.graders import write_references, write_reward

CALL = {"function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
NUMERIC = {"kind": "match", "operation": "numeric", "reference": "answer", "tolerance": 0.5}
PYTHON = {
    "kind": "python",
    "reference": "answer",
    "lowest": -1.0,
    "source": (
        "import re\ndef grade(row, answer):\n    return 1.0 if row['answer'] in re.findall('[0-9]+', answer) else -1.0"
    ),
}
#: Reads the question, and a field that is no text.
ASKED = {
    "kind": "python",
    "source": (
        "def grade(row, answer):\n"
        "    assert row['messages'][0] == {'role': 'user', 'content': 'How many?'}, row\n"
        "    return float(str(row['fields']['n']) in answer and row['fields']['m'] is True)"
    ),
}
#: Graders, and whether the right answer is the last turn.
GRADERS: list[tuple[dict[str, Any], bool]] = [
    *[({"kind": "match", "operation": name, "reference": "answer"}, False) for name in ("exact", "contains")],
    ({"kind": "match", "operation": "normalised"}, True),
    (NUMERIC, False),
    ({"kind": "match", "operation": "json", "reference": "fields", "partial": True}, False),
    ({"kind": "match", "operation": "json", "reference": "fields"}, False),
    ({"kind": "match", "reference": "answer", "answer_from": {"regex": "is ([0-9]+)"}}, False),
    ({"kind": "match", "reference": "answer", "answer_from": {"json_path": "n"}}, False),
    ({"kind": "regex", "pattern": "[0-9]{2}"}, False),
    ({"kind": "tool_call", "reference": "calls"}, False),
    ({"kind": "tool_call", "reference": "calls", "names_only": True}, False),
    ({"kind": "tool_call"}, True),
    (PYTHON, False),
    (ASKED, False),
    ({"kind": "weighted", "parts": [{"weight": 2, "grader": NUMERIC}, {"weight": 1, "grader": PYTHON}]}, False),
]


def make_answers(count: int) -> list[tuple[str, list[dict[str, Any]]]]:
    chance = random.Random(7)
    texts = [
        "",
        "{n}",
        " {n}.\n",
        "It is {n}",
        "#### {n}",
        '{{"n": {n}}}',
        '{{"n": {n}, "m": true}}',
        "**{n}**",
        "{{",
        "\u00fc {n},5",
    ]
    calls: list[list[dict[str, Any]]] = [
        [],
        [CALL],
        [{"function": {"name": "add", "arguments": "{broken"}}],
        [{"function": {"name": "add", "arguments": {"b": 2, "a": 1}}}],
        [CALL, CALL],
    ]
    return [(chance.choice(texts).format(n=chance.randrange(9, 14)), chance.choice(calls)) for _ in range(count)]


Score = Callable[[str, list[dict[str, Any]]], float]


def open_azure(grader: Grader, item: dict[str, Any], turn: dict[str, Any]) -> Score:
    """The grader of OpenAI's API: `grade(sample, item)`."""
    names: dict[str, Any] = {}
    exec(write_grader(grader)["source"], names)
    row = {**item, "right_answer": turn}
    return lambda text, calls: float(names["grade"]({"output_text": text, "output_tools": calls}, row))


def open_vertex(grader: Grader, item: dict[str, Any], turn: dict[str, Any]) -> Score:
    """Google's reward: `evaluate(example, response)`, in Gemini's terms."""
    names: dict[str, Any] = {}
    exec(write_reward(grader)["codeExecutionRewardScorer"]["python_code_snippet"], names)
    fields = {name: value for name, value in item.items() if name != "messages"}
    contents = [{"role": "user", "parts": [{"text": item["messages"][0]["content"]}]}]
    example = {"contents": contents, "references": write_references(fields, turn)}

    def score(text: str, calls: list[dict[str, Any]]) -> float:
        parts: list[dict[str, Any]] = [{"text": "I think of 11.", "thought": True}, {"text": text}]
        parts += [{"functionCall": read_call(call)} for call in calls]
        return float(names["evaluate"](example, {"role": "model", "parts": parts}))

    return score


def read_call(call: dict[str, Any]) -> dict[str, Any]:
    """A call as Gemini makes it: its arguments are an object, never a text."""
    arguments = call["function"]["arguments"]
    if isinstance(arguments, str):
        arguments = json.loads(arguments) if arguments != "{broken" else {"broken": True}
    return {"name": call["function"]["name"], "args": arguments}


def open_bedrock(grader: Grader, item: dict[str, Any], turn: dict[str, Any]) -> Score:
    """A Lambda function, as Bedrock calls it."""
    names: dict[str, Any] = {}
    exec(write_grader_source(grader), names)
    own = {**item, "id": "7", "right_answer": turn, "reference_answer": "11"}

    def score(text: str, calls: list[dict[str, Any]]) -> float:
        answer = {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}
        (result,) = names["lambda_handler"]([{**own, "messages": [*item["messages"], answer]}], None)
        assert result["id"] == "7"
        assert result["metrics_list"][0]["value"] == result["aggregate_reward_score"]
        return float(result["aggregate_reward_score"])

    return score


def open_sagemaker(grader: Grader, item: dict[str, Any], turn: dict[str, Any]) -> Score:
    """The same function, as SageMaker's recipes call it: with all that is not a turn in one text."""
    names: dict[str, Any] = {}
    exec(write_grader_source(grader, wrapped=True), names)
    fields = {name: value for name, value in item.items() if name != "messages"}
    truth = json.dumps({**fields, "right_answer": turn})

    def score(text: str, calls: list[dict[str, Any]]) -> float:
        answer = {"role": "assistant", "content": [{"type": "text", "text": text}], "tool_calls": calls}
        event = [{"id": n, "messages": [*item["messages"], answer], "reference_answer": truth} for n in (1, 2)]
        reply = names["lambda_handler"](event, None)
        assert reply["statusCode"] == 200
        first, second = json.loads(reply["body"])
        assert (first["id"], second["id"]) == (1, 2)
        return float(first["aggregate_reward_score"])

    return score


VENDORS = {"azure": open_azure, "vertex": open_vertex, "bedrock": open_bedrock, "sagemaker": open_sagemaker}


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize(("fields", "last_turn"), GRADERS)
def test_200_answers_score_the_same_in_the_vendors_grader(fields: dict[str, Any], last_turn: bool, vendor: str) -> None:
    grader = make_grader(fields)
    question = {"role": "user", "content": "How many?"}
    turn = {"role": "assistant", "content": "11", "tool_calls": [CALL]}
    item = {"messages": [question], "answer": "11", "fields": {"n": 11, "m": True}, "calls": [CALL]}
    row = {**item, "messages": [question, turn]} if last_turn else item
    score = VENDORS[vendor](grader, item, turn)
    scores = set()
    with GraderProcess(grader) as process:
        for text, calls in make_answers(200):
            ours = process.score(row, Answer(text, tuple(read_tool_calls(calls))))
            theirs = score(text, calls)
            assert theirs == ours.value, (text, calls)
            scores.add(theirs)
    assert len(scores) > 1, "the answers tell nothing apart"


@pytest.mark.parametrize("fields", [{"kind": "similarity"}, {"kind": "schema", "json_schema": {}}])
def test_what_needs_a_library_says_so(fields: dict[str, Any]) -> None:
    assert "librar" in (find_obstacle(make_grader(fields)) or "")
    inside = make_grader({"kind": "weighted", "parts": [{"weight": 1, "grader": fields}]})
    assert find_obstacle(inside) is not None


def test_the_source_holds_no_text_of_the_grader_as_code() -> None:
    hostile = "'''\n\"\"\"; import os #"
    names: dict[str, Any] = {}
    exec(write_source(make_grader({"kind": "match", "reference": hostile})), names)
    assert names["score"]({hostile: "a"}, "a", ()) == 1.0
