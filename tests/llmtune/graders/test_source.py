"""A grader as source scores 200 answers as llmtune itself does, in the wrapper of the service that takes it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from llmtune.graders import Answer, GraderProcess, make_grader
from llmtune.graders.scoring import read_tool_calls
from llmtune.graders.source import find_obstacle, write_source
from llmtune_openai.graders import write_grader

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


@pytest.mark.parametrize(("fields", "last_turn"), GRADERS)
def test_200_answers_score_the_same_in_the_vendors_grader(fields: dict[str, Any], last_turn: bool) -> None:
    grader = make_grader(fields)
    question = {"role": "user", "content": "How many?"}
    turn = {"role": "assistant", "content": "11", "tool_calls": [CALL]}
    item = {"messages": [question], "answer": "11", "fields": {"n": 11, "m": True}, "calls": [CALL]}
    row = {**item, "messages": [question, turn]} if last_turn else item
    names: dict[str, Any] = {}
    exec(write_grader(grader)["source"], names)
    scores = set()
    with GraderProcess(grader) as process:
        for text, calls in make_answers(200):
            ours = process.score(row, Answer(text, tuple(read_tool_calls(calls))))
            sample = {"output_text": text, "output_tools": calls}
            theirs = names["grade"](sample, {**item, "right_answer": turn})
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
