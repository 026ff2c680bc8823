"""Integers above 64 bits keep their digits in results of tools, and refuse a call, whose arguments are an object."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtune.data.example import Example, Message, ToolCall
from llmtune.data.formats.registry import get_format

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
