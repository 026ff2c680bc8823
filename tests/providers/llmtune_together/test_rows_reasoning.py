"""What was thought before an answer goes along, under the key that this backend has for it."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.data.example import Example, Message, Preference
from llmtune.data.formats.registry import get_format

ROWS = get_format("together")


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_written_in_every_spelling(key: str) -> None:
    answer = Message("assistant", "At eight.", extra={key: "The table says so."})
    example = Example((Message("user", "When?"), answer))
    assert ROWS.problems(example) == []
    written = ROWS.write(example)["messages"][1]
    assert written == {"role": "assistant", "content": "At eight.", "reasoning_content": "The table says so."}
    pair = Example((Message("user", "When?"),), preference=Preference((answer,), (Message("assistant", "No idea."),)))
    assert ROWS.problems(pair) == []
    assert ROWS.write(pair)["preferred_output"] == [written]


@pytest.mark.parametrize(
    ("message", "left_out"),
    [
        (Message("assistant", "a", extra={"reasoning": "r", "mood": "x"}), ["messages[].mood"]),
        (Message("assistant", "a", extra={"reasoning": ["r"]}), ["messages[].reasoning"]),
    ],
)
def test_what_else_a_message_has_is_still_reported(message: Message, left_out: list[Any]) -> None:
    example = Example((Message("user", "q"), message))
    assert [problem.code for problem in ROWS.problems(example)] == ["changed-extra"]
    assert ROWS.left_out(example) == left_out


def test_reasoning_of_a_turn_that_is_no_answer_is_not_sent() -> None:
    example = Example((Message("user", "q", extra={"reasoning": "r"}), Message("assistant", "a")))
    assert ROWS.left_out(example) == ["messages[].reasoning"]
    assert ROWS.write(example)["messages"][0] == {"role": "user", "content": "q"}
