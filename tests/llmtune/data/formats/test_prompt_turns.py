"""Prompt and completion as lists of messages or of parts."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtune.data.example import Example, ImagePart, Message, TextPart
from llmtune.data.findings import Finding
from llmtune.data.formats.prompt_turns import PROMPT_TURNS
from llmtune.data.formats.registry import detect

ASK = {"role": "user", "content": "Name a harbour."}
SAY = {"role": "assistant", "content": "Holm."}


def read_row(row: dict[str, Any]) -> tuple[Example, list[str]]:
    assert detect(row) is PROMPT_TURNS
    faults: list[Finding] = []
    return PROMPT_TURNS.read(row, 3, faults), [fault.message for fault in faults]


def test_messages_of_prompt_and_completion_are_one_conversation() -> None:
    example, faults = read_row({"prompt": [ASK], "completion": [SAY], "id": 7})
    assert faults == []
    assert example == Example(
        (Message("user", "Name a harbour."), Message("assistant", "Holm.")), line=3, extra={"id": 7}
    )


def test_the_completion_alone_is_learned() -> None:
    example, _ = read_row({"prompt": [ASK, SAY, ASK], "completion": [SAY]})
    assert [turn.trained for turn in example.messages] == [False, False, False, True]
    marked, _ = read_row({"prompt": [ASK, SAY | {"weight": 1}, ASK], "completion": [SAY]})
    assert [turn.trained for turn in marked.messages] == [False, True, False, True]


def test_a_list_of_parts_is_one_message() -> None:
    parts = [{"type": "text", "text": "What flag?"}, {"type": "image_url", "image_url": {"url": "https://x.org/f.png"}}]
    example, faults = read_row({"prompt": parts, "completion": [{"type": "text", "text": "The pilot flag."}]})
    assert faults == []
    assert example.messages[0].content == (TextPart("What flag?"), ImagePart("https://x.org/f.png"))
    assert example.completion() == "The pilot flag."


def test_images_beside_are_put_where_the_messages_say_an_image_is() -> None:
    content = [{"type": "image"}, {"type": "text", "text": "What flag?"}]
    example, faults = read_row(
        {"prompt": [{"role": "user", "content": content}], "completion": [SAY], "images": ["flag.png"]}
    )
    assert faults == []
    assert example.messages[0].images == (ImagePart("flag.png"),)
    assert example.extra is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": [ASK], "completion": 7}, "'completion' is a number; expected a text"),
        ({"prompt": [ASK], "completion": [ASK]}, "completion holds no assistant turn"),
        ({"prompt": [], "completion": [SAY]}, "prompt is an empty list"),
    ],
)
def test_faults_name_the_key(row: dict[str, Any], message: str) -> None:
    _, faults = read_row(row)
    assert any(fault.startswith(message) for fault in faults)


TURNS = st.tuples(st.sampled_from(["user", "assistant"]), st.text(min_size=1), st.sampled_from([None, 0, 1])).map(
    lambda turn: Message(turn[0], turn[1], weight=turn[2] if turn[0] == "assistant" else None)
)


@given(
    prompt=st.lists(TURNS, min_size=1, max_size=4),
    answer=st.text(min_size=1),
    behind=st.lists(TURNS, max_size=2),
    extra=st.none() | st.dictionaries(st.sampled_from(["id", "source"]), st.text(), min_size=1),
)
def test_conversations_come_back(prompt: list[Message], answer: str, behind: list[Message], extra: Any) -> None:
    example = Example((*prompt, Message("assistant", answer), *behind), extra=extra)
    if PROMPT_TURNS.problems(example):
        assert prompt[0].trained
        return
    faults: list[Finding] = []
    back = PROMPT_TURNS.read(orjson.loads(orjson.dumps(PROMPT_TURNS.write(example))), None, faults)
    assert faults == []
    assert [(turn.role, turn.content, turn.trained) for turn in back.messages] == [
        (turn.role, turn.content, turn.trained) for turn in example.messages
    ]
    assert back.extra == extra


def test_rows_without_a_prompt_or_an_answer_are_refused_when_written() -> None:
    for messages in ((Message("assistant", "a"),), (Message("user", "q"), Message("assistant", "a", weight=0))):
        assert [problem.code for problem in PROMPT_TURNS.problems(Example(messages))] == ["cannot-unanswered"]
