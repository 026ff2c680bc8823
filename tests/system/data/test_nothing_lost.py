"""What stands in a row is learned or named in a finding: under every key, at every place of a row, in every format."""

from __future__ import annotations

import copy
import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtune.data.checks.check import CheckReport, check
from llmtune.data.example import Example, ImagePart, Message, OtherPart, Preference, TextPart, ToolCall
from llmtune.data.findings import Finding
from llmtune.data.formats.registry import all_formats
from llmtune.data.io.reading import read

ASK = {"role": "user", "content": "When does it sail?"}
SAY = {"role": "assistant", "content": "At eight."}
NOT_SO = {"role": "assistant", "content": "Who knows."}
TOOL = {"type": "function", "function": {"name": "tide", "parameters": {"type": "object", "properties": {"at": {}}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "tide", "arguments": '{"at": "Holm"}'}}
CHAT = {
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Tide?"},
                {"type": "image_url", "image_url": {"url": "https://pier.example/a.png"}},
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "2.1 m", "tool_call_id": "c1"},
        SAY,
    ],
    "tools": [TOOL],
}
PAIRED = {"input": {"messages": [ASK]}, "preferred_output": [SAY], "non_preferred_output": [NOT_SO]}
GEMINI = {
    "systemInstruction": {"role": "system", "parts": [{"text": "Be brief."}]},
    "contents": [
        {
            "role": "user",
            "parts": [{"text": "Tide?"}, {"fileData": {"mimeType": "image/png", "fileUri": "gs://pier/a.png"}}],
        },
        {"role": "model", "parts": [{"functionCall": {"name": "tide", "args": {"at": "Holm"}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "tide", "response": {"m": 2.1}}}]},
        {"role": "model", "parts": [{"text": "2.1 m"}]},
    ],
    "tools": [{"functionDeclarations": [{"name": "tide", "parameters": {"type": "object"}}]}],
}
SAILS = {"role": "model", "parts": [{"text": "At eight."}]}
CONVERSE = {
    "schemaVersion": "bedrock-conversation-2024",
    "system": [{"text": "Be brief."}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"text": "Tide?"},
                {"image": {"format": "png", "source": {"s3Location": {"uri": "s3://pier/a.png"}}}},
            ],
        },
        {"role": "assistant", "content": [{"toolUse": {"toolUseId": "c1", "name": "tide", "input": {"at": "Holm"}}}]},
        {"role": "user", "content": [{"toolResult": {"toolUseId": "c1", "content": [{"text": "2.1 m"}]}}]},
        {"role": "assistant", "content": [{"text": "2.1 m"}]},
    ],
    "toolConfig": {"tools": [{"toolSpec": {"name": "tide", "inputSchema": {"json": {"type": "object"}}}}]},
}
#: A row of each format.
ROWS: dict[str, dict[str, Any]] = {
    "chat": CHAT,
    "openai": CHAT,
    "together": {"messages": [ASK, SAY]},
    "vertex_chat": CHAT,
    "claude": {"system": "Be brief.", "messages": [ASK, SAY]},
    "cohere_chat": {
        "messages": [{"role": "User", "content": "When?"}, {"role": "Chatbot", "content": "At eight."}],
    },
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "Tide?"},
            {"from": "function_call", "value": '{"name": "tide", "arguments": {"at": "Holm"}}'},
            {"from": "observation", "value": "2.1 m"},
            {"from": "gpt", "value": "2.1 m"},
        ],
        "tools": [TOOL],
    },
    "prompt_completion": {"prompt": "When?", "completion": "At eight."},
    "bedrock_prompt_completion": {"prompt": "When?", "completion": "At eight."},
    "prompt_completion_turns": {"prompt": [ASK], "completion": [SAY]},
    "alpaca": {"instruction": "When?", "input": "", "output": "At eight."},
    "labelled": {"text": "The lock will not turn", "label": "repair"},
    "cohere_classification": {"text": "The lock will not turn", "label": "repair"},
    "text": {"text": "The ferry leaves at eight."},
    "preference": PAIRED,
    "openai_preference": PAIRED,
    "openai_reinforcement": {"messages": [ASK], "right_answer": SAY},
    "preference_pair": {"prompt": "When?", "chosen": "At eight.", "rejected": "Who knows."},
    "preference_messages": {"chosen_messages": [ASK, SAY], "rejected_messages": [ASK, NOT_SO]},
    "gemini": GEMINI,
    "gemini_preference": {
        "contents": GEMINI["contents"][:1],  # type: ignore[index]
        "completions": [
            {"score": 1, "completion": SAILS},
            {"score": 0, "completion": {"role": "model", "parts": [{"text": "Who knows."}]}},
        ],
    },
    "gemini_reinforcement": {
        "contents": GEMINI["contents"][:1],  # type: ignore[index]
        "references": {"right_answer": '{"role": "assistant", "content": "At eight."}'},
    },
    "bedrock_converse": CONVERSE,
    "bedrock_nova_2": CONVERSE,
    "bedrock_reinforcement": {"messages": [ASK], "right_answer": SAY, "reference_answer": "At eight."},
    "bedrock_text": {"input": "The ferry leaves at eight."},
    "nebius": CHAT,
    "nebius_prompt_completion": {"prompt": "When?", "completion": "At eight."},
    "sagemaker_chat": {"messages": [ASK, SAY]},
    "sagemaker_reinforcement": {
        "prompt": [ASK],
        "reward_model": {"ground_truth": '{"right_answer": {"role": "assistant", "content": "At eight."}}'},
    },
    "sagemaker_preference": {"prompt": [ASK], "chosen": [SAY], "rejected": [NOT_SO]},
}
#: What is kept as it stands, whatever is in it: definitions of tools, and what a source of an image is.
WHOLE = ("tools", "toolConfig", "source", "args", "input", "response")
#: Keys that mean something in one format or another, beside such as nobody knows.
KEYS = (
    *("context", "history", "description", "title", "passage", "article", "system", "system_prompt", "text", "content"),
    *("input", "name", "query", "tools", "messages", "metadata", "id", "topic", "label_text", "images", "audio"),
    *("thinking", "reasoning_content", "cache_control", "annotations", "thoughtSignature", "role_hint", "value"),
)


def list_objects(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of the objects of a row, without those that are kept whole."""
    if isinstance(value, dict):
        yield path
        for key, part in value.items():
            if key not in WHOLE or (key == "input" and path == ()):
                yield from list_objects(part, (*path, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from list_objects(part, (*path, index))


PLACES = [(name, path) for name, row in ROWS.items() for path in list_objects(row)]


def learned_text(example: Example) -> str:
    """All that a model could learn of a row: everything but the keys that have no place."""

    def without_extra(turn: Message) -> Message:
        return turn.replace(extra=None)

    pair = example.preference
    turns = (*example.messages, *(pair.preferred if pair else ()), *(pair.rejected if pair else ()))
    return repr((tuple(map(without_extra, turns)), example.tools, example.label, example.text))


def is_reported(key: str, report: CheckReport) -> bool:
    """Whether a finding names the key, or refuses the row."""
    spelled = repr(key)[1:-1]
    return any(finding.is_error or spelled in finding.message for finding in report.findings)


def test_every_format_is_among_the_rows() -> None:
    assert set(ROWS) == set(all_formats()) - {"acme"}


@pytest.mark.parametrize("name", ROWS)
def test_the_rows_themselves_are_sound(name: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(orjson.dumps(ROWS[name]) + b"\n")
    assert [finding.message for finding in check(path, format=name).findings] == []


NOTES = st.text(st.characters(categories=("L", "N", "P", "Zs")), min_size=1, max_size=30).map("note {} 7q".format)


@settings(max_examples=400)
@given(
    place=st.sampled_from(PLACES),
    key=st.sampled_from(KEYS) | st.text("qwzj", min_size=3, max_size=8),
    note=NOTES,
    shape=st.sampled_from(("text", "list", "object")),
    detect=st.booleans(),
)
def test_a_text_under_any_key_is_learned_or_named(
    tmp_path: Path, place: tuple[str, tuple[Any, ...]], key: str, note: str, shape: str, detect: bool
) -> None:
    name, path_in_row = place
    row = copy.deepcopy(ROWS[name])
    target: Any = row
    for step in path_in_row:
        target = target[step]
    if key in target:
        return
    target[key] = {"text": note, "list": [note], "object": {"of": note}}[shape]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(orjson.dumps(row) + b"\n")
    format = "auto" if detect else name
    examples = [item for item in read(path, format) if not isinstance(item, Finding)]
    if any(repr(note)[1:-1] in learned_text(example) for example in examples):
        return
    assert is_reported(key, check(path, format=format)), (name, path_in_row, key)


@given(
    name=st.sampled_from([name for name, row in ROWS.items() if all(isinstance(value, str) for value in row.values())]),
    column=st.sampled_from(KEYS) | st.text("qwzj", min_size=3, max_size=8),
    note=NOTES,
)
def test_a_text_in_any_column_is_learned_or_named(tmp_path: Path, name: str, column: str, note: str) -> None:
    row = {**ROWS[name], column: note}
    if column in ROWS[name]:
        return
    path = tmp_path / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    examples = [item for item in read(path) if not isinstance(item, Finding)]
    if any(repr(note)[1:-1] in learned_text(example) for example in examples):
        return
    assert is_reported(column, check(path)), (name, column)


def _contents() -> list[Any]:
    """Contents of a turn of every kind."""
    seen, heard = ImagePart("gs://harbour/seen 7q.png"), OtherPart("input_audio", {"type": "input_audio", "of": "7q"})
    return ["said 7q", (TextPart("one 7q"), TextPart("two 7q")), (TextPart("look 7q"), seen), (seen,), (heard,)]


TURN_CALL = Message("assistant", None, (ToolCall("call_1", "tide", '{"at":"where 7q"}'),))
TOLD_TOOL = {
    "type": "function",
    "function": {"name": "tide", "description": "told 7q", "parameters": {"type": "object"}},
}
TURNS = [
    *(Message(role, content) for role in ("system", "user", "assistant", "tool") for content in _contents()),
    Message("assistant", "said 7q", reasoning="thought 7q"),
    TURN_CALL.replace(reasoning="thought 7q"),
]


def _around(turn: Message) -> list[Example]:
    """Rows with a turn in every place where it may stand, in a conversation and in a pair."""
    ask, say = Message("user", "ask 7q"), Message("assistant", "say 7q")
    if turn.role == "tool":
        messages: tuple[Message, ...] = (ask, TURN_CALL, turn.replace(tool_call_id="call_1"), say)
        return [Example(messages, (TOLD_TOOL,)), Example(messages, (TOLD_TOOL | {"note": "noted 7q"},))]
    if turn.role == "assistant":
        pairs = [Preference((turn,), (say,)), Preference((say,), (turn,))]
        return [Example((ask, turn)), *(Example((ask,), preference=pair) for pair in pairs)]
    if turn.role == "user":
        return [Example((turn, say)), Example((turn,), preference=Preference((say,), (say,)))]
    return [Example((turn, ask, say)), Example((turn,), preference=Preference((say,), (say,)))]


@pytest.mark.parametrize("turn", TURNS, ids=lambda turn: turn.role)
def test_what_no_format_refuses_is_in_what_it_writes(turn: Message) -> None:
    for name, fmt in all_formats().items():
        for example in _around(turn):
            problems = fmt.problems(example)
            if any(problem.is_error for problem in problems):
                continue
            written = orjson.dumps(fmt.write(example)).decode()
            texts = set(re.findall(r"\w+ 7q", repr(example)))
            lost = [text for text in texts if text not in written]
            assert not lost or [problem.code for problem in problems] == ["changed-tools"], (name, example, lost)
