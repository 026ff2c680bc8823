"""The declarations and the row rules tell one story: formats, and Google's limits on validation sets."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtune.data.example import Example, Message, ToolCall
from llmtune.data.formats.base import FileFacts
from llmtune.data.formats.registry import get_format
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
    found = list(VERTEX_ROWS.file_rules(facts))
    assert bool(found) is refused
    assert all(each.is_error for each in found)


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


@given(number=LONG)
def test_the_result_of_a_tool_is_kept_as_text(number: int) -> None:
    text = json.dumps({"parcel": number})
    (answer,) = [
        part["functionResponse"]
        for content in get_format("gemini").write(calling("{}", text))["contents"]
        for part in content["parts"]
        if "functionResponse" in part
    ]
    assert answer["response"] == {"content": text}
