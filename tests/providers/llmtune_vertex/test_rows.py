"""The declarations and the row rules tell one story: formats, and Google's limits on validation sets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtune.data.example import Example, Message, ToolCall
from llmtune.data.formats import row_features as f
from llmtune.data.formats.base import FileFacts
from llmtune.data.formats.registry import get_format
from llmtune.data.io.reading import read_rows
from llmtune_vertex.capabilities import OPEN_ROWS, PREFERENCE_ROWS
from llmtune_vertex.rows import VERTEX_ROWS
from tests.providers.llmtune_vertex.conftest import FLASH
from tests.providers.llmtune_vertex.test_provider import ask


def test_formats_are_the_same_on_both_sides() -> None:
    assert VERTEX_ROWS.format_for("sft", FLASH) == ask(FLASH).limits.format == "gemini"
    assert VERTEX_ROWS.format_for("dpo", FLASH) == ask(FLASH, method="dpo").limits.format == PREFERENCE_ROWS
    assert get_format(OPEN_ROWS).name == ask("meta/llama3_1@llama-3.1-8b").limits.format


@pytest.mark.parametrize(
    ("rows", "train", "refused"),
    [(5_000, 20_000, False), (5_001, 100_000, True), (1_000, 1_000, False), (1_001, 2_000, True)],
)
def test_a_validation_set_may_have_5000_rows_and_30_percent(rows: int, train: int, refused: bool) -> None:
    facts = FileFacts(
        role="validation",
        path="v.jsonl",
        rows=rows,
        size=1000,
        tokens=1000,
        exact_tokens=False,
        format="gemini",
        method="sft",
        model=FLASH,
        features=0,
        labels={},
        train_rows=train,
        total_rows=train + rows,
    )
    findings = list(VERTEX_ROWS.file_rules(facts))
    assert bool(findings) is refused
    assert all(finding.is_error for finding in findings)


@pytest.mark.parametrize(
    ("model", "features", "warned"),
    [
        ("gemini-2.5-flash", f.TOOLS, True),
        ("gemini-3.5-flash", f.TOOLS, True),
        ("gemini-2.0-flash-001", f.TOOLS, False),
        ("gemini-2.5-flash", 0, False),
        (None, f.TOOLS, False),
    ],
)
def test_tool_rows_are_warned_of_where_they_were_reported_as_refused(
    model: str | None, features: int, warned: bool
) -> None:
    facts = FileFacts(
        role="train",
        path="t.jsonl",
        rows=14,
        size=1000,
        tokens=1000,
        exact_tokens=False,
        format="gemini",
        method="sft",
        model=model,
        features=features,
        labels={},
        train_rows=14,
        total_rows=14,
    )
    findings = list(VERTEX_ROWS.file_rules(facts))
    assert [finding.code for finding in findings] == (["vendor-tools"] if warned else [])
    assert not any(finding.is_error for finding in findings)


LONG = st.integers(min_value=2**64, max_value=10**40) | st.integers(min_value=-(10**40), max_value=-(2**64))


def calling(arguments: str, result: str) -> Example:
    call = ToolCall("call_1", "track", arguments)
    messages = (Message("user", "Where?"), Message("assistant", None, (call,)), Message("tool", result, (), "call_1"))
    return Example((*messages, Message("assistant", "On its way.")))


@pytest.mark.parametrize("name", ["gemini", "bedrock_converse"])
@given(number=LONG)
def test_a_call_with_a_longer_integer_is_refused(name: str, number: int) -> None:
    example = calling(json.dumps({"parcel": [number]}), "here")
    assert [problem.code for problem in get_format(name).problems(example)] == ["cannot-number"]
    assert get_format(name).problems(calling(json.dumps({"parcel": str(number), "km": 1.5}), "here")) == []
    assert get_format("chat").problems(example) == []


def response_to(text: str) -> Any:
    """Return the object that a tool's result becomes; it is read back as the same value."""
    fmt = get_format("gemini")
    row = fmt.write(calling("{}", text))
    (answer,) = [
        part["functionResponse"]
        for content in row["contents"]
        for part in content["parts"]
        if "functionResponse" in part
    ]
    (result,) = [turn for turn in fmt.read(row, None, []).messages if turn.role == "tool"]
    assert result.content == text or json.loads(result.words) == json.loads(text)
    return answer["response"]


@given(number=LONG)
def test_the_result_of_a_tool_is_kept_as_text(number: int) -> None:
    text = json.dumps({"parcel": number})
    assert response_to(text) == {"content": text}


@pytest.mark.parametrize(
    "text",
    ['{"km": 1.50}', '{"km": 1e3}', '{"km": 1, "km": 2}', '{"content": "here"}', "[1, 2]", "7", '"here"', "here", ""],
)
def test_a_result_that_would_lose_something_as_an_object_is_kept_as_text(text: str) -> None:
    assert response_to(text) == {"content": text}


@pytest.mark.parametrize("text", ['{"km":1.5}', '{"km": 1.5}', '{\n  "km" : 1.5\n}'])
def test_a_result_that_spells_an_object_is_one(text: str) -> None:
    assert response_to(text) == {"km": 1.5}


@given(value=st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53) | st.booleans() | st.none()))
def test_any_result_comes_back_as_its_value(value: dict[str, Any]) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        response_to(text)


def test_rows_of_open_models_hold_turns_and_nothing_else() -> None:
    fmt = get_format(OPEN_ROWS)
    turns = (Message("user", "q", extra={"mail": "ann@pier.example"}), Message("assistant", "a"))
    example = Example(turns, extra={"ticket": 4})
    assert fmt.write(example) == {
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
    }
    assert fmt.left_out(example) == ["ticket", "messages[].mail"]
    hidden = Example((*turns, Message("user", "r"), Message("assistant", "b", weight=0)))
    assert "lost-weight" in {finding.code for finding in fmt.problems(hidden)}


def test_a_part_with_nothing_in_it_is_no_thought() -> None:
    parts = [{}, {"text": "b"}]
    row = {"contents": [{"role": "user", "parts": [{"text": "a"}]}, {"role": "model", "parts": parts}]}
    (example,) = read_rows([(1, row)], get_format("gemini"))
    assert isinstance(example, Example)
    assert (example.messages[1].reasoning, example.messages[1].words) == (None, "b")
