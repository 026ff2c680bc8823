"""Markers of templates and control tokens inside texts are told: they would be more than their letters."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmtune.data.checks.check import check
from llmtune.data.checks.per_row import check_example, rename_turns
from llmtune.data.example import Example, Message, ToolCall
from llmtune.data.findings import Finding
from llmtune.data.io.reading import load


@pytest.mark.parametrize(
    "text",
    [
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nOpen?<|eot_id|>",
        "<|im_start|>user\nOpen?<|im_end|>",
        "<start_of_turn>user\nOpen?<end_of_turn>",
        "<s>[INST] Open? [/INST] Yes.</s>",
        "<\uff5cUser\uff5c>Open?<\uff5cAssistant\uff5c>",
    ],
)
def test_a_text_that_was_rendered_before_is_told(text: str) -> None:
    assert [finding.code for finding in check_example(Example(text=text))] == ["rendered-text"]


@pytest.mark.parametrize("text", ["The ferry leaves at eight.", "a <b> c", "user: Open?", "x<|>y", "[1] [INSTALL]"])
def test_a_text_is_not_taken_for_a_rendered_one(text: str) -> None:
    assert list(check_example(Example(text=text))) == []


class Tokens:
    """A tokenizer of one control token."""

    all_special_tokens = ("<|stop|>",)

    def encode(self, text: str) -> list[int]:
        return [1] * len(text.split())


@pytest.mark.parametrize(
    ("row", "index"),
    [
        ({"messages": [{"role": "user", "content": "What is <|stop|>?"}, {"role": "assistant", "content": "a"}]}, 0),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<|stop|>"}]}, 1),
        ({"prompt": "q", "chosen": "a", "rejected": "b <|stop|>"}, 2),
    ],
)
def test_control_tokens_in_turns_are_told_with_a_tokenizer(tmp_path: Path, row: Any, index: int) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(orjson.dumps(row) + b"\n")
    assert check(path).counts == {}
    (finding,) = check(path, tokenizer=Tokens()).findings
    assert (finding.code, finding.severity, finding.line) == ("control-token", "warning", 1)
    assert finding.message.startswith(f"messages[{index}]: '<|stop|>' is a control token")


CALLED = {"from": "function_call", "value": '[{"name": "tide", "arguments": {}}, {"name": "tide", "arguments": {}}]'}
SYSTEM, NOTHING, GOOD = ({"from": name, "value": text} for name, text in (("system", "s"), ("human", ""), ("gpt", "a")))
ASK, SAY = {"role": "user", "content": ""}, {"role": "assistant", "content": "a"}


def parts(key: str, roles: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, key: [{"text": text}]} for role, text in zip(roles, ("", "a"), strict=True)]


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"system": "s", "conversations": [NOTHING, GOOD]}, "conversations[0]"),
        ({"conversations": [SYSTEM, NOTHING, GOOD]}, "conversations[1]"),
        ({"system": "s", "messages": [ASK, SAY]}, "messages[0]"),
        ({"system": "", "messages": [ASK | {"content": "q"}, SAY]}, "system"),
        ({"system": "s", "prompt": [ASK], "completion": "a"}, "turns[0]"),
        (
            {
                "tools": [{"name": "tide"}],
                "conversations": [
                    *(NOTHING | {"value": "q"}, CALLED, {"from": "observation", "value": "[1, 2]"}, GOOD),
                    *(NOTHING, GOOD),
                ],
            },
            "conversations[4]",
        ),
        (
            {"systemInstruction": {"parts": [{"text": "s"}]}, "contents": parts("parts", ("user", "model"))},
            "contents[0]",
        ),
        ({"system": [{"text": "s"}], "messages": parts("content", ("user", "assistant"))}, "messages[0]"),
    ],
)
def test_a_turn_is_named_by_its_place_in_the_row(rows_file: Any, row: dict[str, Any], name: str) -> None:
    """A system prompt beside the turns, and further answers out of one turn, are not counted."""
    path = rows_file([row])
    (finding,) = check(path).findings
    assert finding.message.startswith(f"{name}: the ")
    (example,) = load(path)
    assert example == Example(*example)  # it is no other row for that
    assert pickle.loads(pickle.dumps(example)).messages[0].__class__ is example.messages[0].__class__


def test_findings_on_turns_name_them_as_the_format_does() -> None:
    call = ToolCall("call_1", "tide", "{}")
    example = Example((Message("user", "q"), Message("assistant", None, (call,))))
    assert [finding.message for finding in rename_turns(check_example(example), example, "conversations")] == [
        "conversations[1]: 'tide' is not among the row's tools"
    ]
    row_finding = Finding("x", "error", "the row", "")
    assert list(rename_turns([row_finding], example, "conversations")) == [row_finding]
