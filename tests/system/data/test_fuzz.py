"""Rows bent out of shape anywhere: a finding, never a stack trace; and what passes can be checked and written."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtune.data.checks.per_row import check_example
from llmtune.data.checks.privacy import check_privacy
from llmtune.data.convert import is_fatal
from llmtune.data.example import Example
from llmtune.data.findings import Finding
from llmtune.data.formats.registry import all_formats, get_format, vendors
from llmtune.data.formats.row_features import features
from llmtune.data.hashing import answer_text, label_of, prompt_text
from llmtune.data.io.reading import read_rows
from llmtune.data.rendering.token_count import Counter

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {}}}}}]
IMAGE = {"type": "image_url", "image_url": {"url": "https://a/b.png", "detail": "low"}}
TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": [{"type": "text", "text": "q"}, IMAGE], "name": "ann"},
    {"role": "assistant", "tool_calls": [CALL], "weight": 0},
    {"role": "tool", "tool_call_id": "c1", "content": "1"},
    {"role": "assistant", "content": "a", "weight": 1},
]
MODEL = {"role": "model", "parts": [{"text": "a"}, {"functionCall": {"name": "f", "args": {"x": 1}}}]}
ANSWER = {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"y": 2}}}]}
FILE = {"fileData": {"mimeType": "image/png", "fileUri": "gs://a"}}
INLINE = {"inlineData": {"mimeType": "image/png", "data": "A"}}
PICTURE = {"image": {"format": "png", "source": {"s3Location": {"uri": "s3://a"}}}}
SEED_ROWS: dict[str, list[dict[str, Any]]] = {
    "chat": [
        {"messages": TURNS, "tools": TOOLS, "parallel_tool_calls": False},
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
            ],
            "functions": [{"name": "f"}],
        },
    ],
    "prompt_completion": [{"prompt": "q", "completion": "a", "system": "s", "label": "x"}],
    "alpaca": [{"instruction": "q", "input": "i", "output": "a", "system": "s", "history": [["h", "i"]]}],
    "sharegpt": [
        {
            "conversations": [
                {"from": "human", "value": "q", "weight": 1},
                {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
                {"from": "observation", "value": "1"},
                {"from": "gpt", "value": "a"},
            ],
            "system": "s",
            "tools": orjson.dumps(TOOLS).decode(),
        }
    ],
    "labelled": [{"text": "q", "label": ["a", "b"]}],
    "text": [{"text": "words", "id": 3}],
    "preference": [
        {
            "input": {"messages": TURNS[:2], "tools": TOOLS},
            "preferred_output": TURNS[4:],
            "non_preferred_output": TURNS[4:],
        }
    ],
    "preference_pair": [{"prompt": "q", "chosen": "a", "rejected": TURNS[4:], "images": ["i.png"], "system": "s"}],
    "preference_messages": [{"chosen_messages": TURNS, "rejected_messages": TURNS, "tools": TOOLS}],
    "gemini": [
        {
            "systemInstruction": {"parts": [{"text": "s"}]},
            "contents": [{"role": "user", "parts": [{"text": "q"}, FILE, INLINE]}, MODEL, ANSWER, MODEL],
            "tools": [{"functionDeclarations": [{"name": "f", "parameters": {}}]}],
        }
    ],
    "gemini_preference": [
        {
            "contents": [{"role": "user", "parts": [{"text": "q"}]}],
            "completions": [{"score": 1, "completion": MODEL}, {"score": 0, "completion": MODEL}],
        }
    ],
    "bedrock_converse": [
        {
            "schemaVersion": "bedrock-conversation-2024",
            "system": [{"text": "s"}],
            "messages": [
                {"role": "user", "content": [{"text": "q"}, PICTURE]},
                {"role": "assistant", "content": [{"toolUse": {"toolUseId": "c", "name": "f", "input": {"x": 1}}}]},
                {"role": "user", "content": [{"toolResult": {"toolUseId": "c", "content": [{"json": {"y": 1}}]}}]},
                {"role": "assistant", "content": [{"text": "a"}]},
            ],
            "toolConfig": {"tools": [{"toolSpec": {"name": "f", "inputSchema": {"json": {}}}}]},
        }
    ],
    "claude": [{"system": "s", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}],
    "cohere_chat": [
        {
            "messages": [
                {"role": "System", "content": "s"},
                {"role": "User", "content": "q"},
                {"role": "Chatbot", "content": "a"},
            ]
        }
    ],
}

PLAIN_JUNK = [None, True, False, 0, -1, 1.5, 2**60, "", " ", "user", "\u2028"]
JUNK = st.sampled_from([*PLAIN_JUNK, [], {}, [[]], [None], [1, "x"], {"text": 1}, {"x": {"y": []}}, {"role": []}])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a row, as a path of keys and indices."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


@st.composite
def bent(draw: st.DrawFn, row: dict[str, Any]) -> dict[str, Any]:
    row = copy.deepcopy(row)
    for _ in range(draw(st.integers(1, 3))):
        every = places(row)
        if not every:
            break
        *way, last = draw(st.sampled_from(every))
        inner: Any = row
        for key in way:
            inner = inner[key]
        action = draw(st.sampled_from(["replace", "remove", "repeat"]))
        if action == "replace":
            inner[last] = copy.deepcopy(draw(JUNK))
        elif action == "remove":
            del inner[last]
        elif isinstance(inner, list):
            inner.insert(last, copy.deepcopy(inner[last]))
    return row


CASES = [(name, row) for name, rows in SEED_ROWS.items() for row in rows]


@pytest.mark.parametrize(("name", "row"), CASES, ids=[f"{name}{index}" for index, (name, _) in enumerate(CASES)])
def test_the_seed_rows_are_sound(name: str, row: dict[str, Any]) -> None:
    faults: list[Finding] = []
    fmt = get_format(name)
    assert fmt.detect(row)
    fmt.read(copy.deepcopy(row), 1, faults)
    assert [fault for fault in faults if fault.is_error] == []


@settings(max_examples=80)
@pytest.mark.parametrize(("name", "row"), CASES, ids=[f"{name}{index}" for index, (name, _) in enumerate(CASES)])
@given(data=st.data())
def test_no_row_breaks_a_reader(name: str, row: dict[str, Any], data: st.DataObject) -> None:
    broken = data.draw(bent(row))
    fmt = get_format(name)
    items = list(read_rows([(1, broken)], fmt))
    assert items
    examples = [item for item in items if isinstance(item, Example)]
    errors = [item for item in items if isinstance(item, Finding) and item.is_error]
    assert bool(examples) != bool(errors)
    for finding in items:
        if isinstance(finding, Finding):
            assert finding.message
            assert finding.line == 1
    for other in all_formats().values():
        other.detect(broken)
    for example in examples:
        hash((prompt_text(example), answer_text(example), label_of(example)))
        found = [*check_example(example), *check_privacy(example)]
        features(example)
        Counter().row(example)
        for rows in vendors().values():
            found += rows.row_rules(example, "sft", None)
        assert all(isinstance(finding, Finding) for finding in found)
        if any(finding.is_error for finding in found):
            continue
        for target in all_formats().values():
            if not any(is_fatal(problem, allow_lossy=True) for problem in target.problems(example)):
                orjson.dumps(target.write(example))
