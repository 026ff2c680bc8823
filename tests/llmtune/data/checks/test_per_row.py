"""Markers of templates and control tokens inside texts are told: they would be more than their letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from llmtune.data.checks.check import check
from llmtune.data.checks.per_row import check_example, in_own_terms
from llmtune.data.example import Example, Message, ToolCall
from llmtune.data.findings import Finding


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
    ("row", "place"),
    [
        ({"messages": [{"role": "user", "content": "What is <|stop|>?"}, {"role": "assistant", "content": "a"}]}, 0),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<|stop|>"}]}, 1),
        ({"prompt": "q", "chosen": "a", "rejected": "b <|stop|>"}, 2),
    ],
)
def test_control_tokens_in_turns_are_told_with_a_tokenizer(tmp_path: Path, row: Any, place: int) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(orjson.dumps(row) + b"\n")
    assert check(path).counts == {}
    (finding,) = check(path, tokenizer=Tokens()).findings
    assert (finding.code, finding.severity, finding.line) == ("control-token", "warning", 1)
    assert finding.message.startswith(f"messages[{place}]: '<|stop|>' is a control token")


def test_findings_on_turns_name_them_as_the_format_does() -> None:
    call = ToolCall("call_1", "tide", "{}")
    example = Example((Message("user", "q"), Message("assistant", None, (call,))))
    assert [finding.message for finding in in_own_terms(check_example(example), example, "conversations")] == [
        "conversations[1]: 'tide' is not among the row's tools"
    ]
    other = Finding("x", "error", "the row", "")
    assert list(in_own_terms([other], example, "conversations")) == [other]
