"""Calls of tools are read from what a model wrote; what is none stays text."""

from __future__ import annotations

import json

import pytest

from llmtune.data.example import Message
from llmtune.provider.generation import Generation, GenerationRequest
from llmtune_local.inference.tool_call_parser import read_calls, with_calls

CITY = '{"name": "get_weather", "arguments": {"city": "Köln"}}'


@pytest.mark.parametrize(
    ("text", "expected", "names"),
    [
        (f"<tool_call>{CITY}</tool_call>", "", ["get_weather"]),
        (
            f"Let me see.\n<tool_call>\n{CITY}\n</tool_call>\n<tool_call>{CITY}</tool_call>",
            "Let me see.",
            2 * ["get_weather"],
        ),
        (f"[TOOL_CALLS] [{CITY}, {CITY}]", "", 2 * ["get_weather"]),
        ('{"name": "get_weather", "parameters": {"city": "Köln"}}', "", ["get_weather"]),
    ],
)
def test_the_forms_of_open_models_are_read(text: str, expected: str, names: list[str]) -> None:
    remaining, calls = read_calls(text)
    assert remaining == expected
    assert [call.name for call in calls] == names
    assert all(json.loads(call.arguments) == {"city": "Köln"} for call in calls)
    assert len({call.id for call in calls}) == len(calls)


@pytest.mark.parametrize(
    "text",
    [
        "It rains.",
        '{"city": "Köln"}',
        "<tool_call>{broken</tool_call>",
        f"<tool_call>{CITY}</tool_call><tool_call>[]7</tool_call>",
        '{"name": "x"}',
        "[]",
        "",
    ],
)
def test_what_is_no_call_stays_text(text: str) -> None:
    assert read_calls(text) == (text, ())


def test_only_where_tools_were_offered() -> None:
    request = GenerationRequest(messages=(Message("user", "weather?"),))
    answer = Generation(text=f"<tool_call>{CITY}</tool_call>", finish_reason="stop")
    assert with_calls(answer, request) is answer
    offered = GenerationRequest(messages=request.messages, tools=({"type": "function"},))
    read = with_calls(answer, offered)
    assert (read.text, read.finish_reason) == ("", "tool_calls")
    cut = with_calls(Generation(text=answer.text, finish_reason="length"), offered)
    assert cut.finish_reason == "length"
