"""Preference rows under the names of other trainers: the prompt is there once, and nothing of it is an answer."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtune.data.example import Example, Message, Preference
from llmtune.data.findings import Finding
from llmtune.data.formats.registry import detect, get_format


def read_row(row: dict[str, Any], name: str = "preference_pair") -> tuple[Example, list[str]]:
    fmt = detect(row)
    assert fmt is get_format(name)
    faults: list[Finding] = []
    return fmt.read(row, None, faults), [fault.message for fault in faults]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def model(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


PAIR = Example(
    (Message("user", "Open?"),), preference=Preference((Message("assistant", "Yes."),), (Message("assistant", "No."),))
)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Open?", "chosen": "Yes.", "rejected": "No."},
        {"question": "Open?", "chosen": "Yes.", "rejected": "No."},
        {"instruction": "Open?", "input": "", "chosen": "Yes.", "rejected": "No."},
        {"instruction": "Open?", "chosen_response": "Yes.", "rejected_response": "No."},
        {"input": "Open?", "chosen": "Yes.", "rejected": "No.", "system": ""},
        {
            "conversations": [{"from": "human", "value": "Open?"}],
            "chosen": {"from": "gpt", "value": "Yes."},
            "rejected": {"from": "gpt", "value": "No."},
        },
        {"messages": [user("Open?")], "chosen": model("Yes."), "rejected": model("No.")},
        {"chosen": [user("Open?"), model("Yes.")], "rejected": [user("Open?"), model("No.")]},
        {"prompt": "Open?", "chosen": [user("Open?"), model("Yes.")], "rejected": [user("Open?"), model("No.")]},
        {"prompt": [user("Open?")], "chosen": [user("Open?"), model("Yes.")], "rejected": [model("No.")]},
        {"chosen": "\n\nHuman: Open?\n\nAssistant: Yes.", "rejected": "\n\nHuman: Open?\n\nAssistant: No."},
        {
            "prompt": "Open?",
            "chosen": [user("Open?"), model("Yes.")],
            "rejected": [user("Open?"), model("No.")],
            "messages": [user("Open?"), model("Yes.")],
        },
    ],
)
def test_one_pair_in_every_spelling(row: dict[str, Any]) -> None:
    example, faults = read_row(row)
    assert faults == []
    assert example == PAIR


def test_a_system_turn_may_stand_before_the_prompt_in_the_answers() -> None:
    shared = [{"role": "system", "content": "Be brief."}, user("Open?")]
    row = {"prompt": "Open?", "chosen": [*shared, model("Yes.")], "rejected": [*shared, model("No.")]}
    example, _ = read_row(row)
    assert [turn.words for turn in example.messages] == ["Be brief.", "Open?"]


def test_transcripts_are_cut_at_the_last_turn_that_both_share() -> None:
    begin = "\n\nHuman: Hi\n\nAssistant: Hello\n\nthere\n\nHuman: Open?\n\nAssistant:"
    example, faults = read_row(
        {"chosen": f"{begin} Yes.", "rejected": f"{begin} No.\n\nHuman: Sure?\n\nAssistant: No."}
    )
    assert faults == []
    assert [turn.words for turn in example.messages] == ["Hi", "Hello\n\nthere", "Open?"]
    assert example.preference is not None
    assert [turn.words for turn in example.preference.rejected] == ["No.", "Sure?", "No."]


@pytest.mark.parametrize(
    ("row", "name", "message"),
    [
        (
            {"chosen": "Yes.", "rejected": "No."},
            "preference_pair",
            "there is no 'prompt', and the answers begin with no",
        ),
        (
            {"prompt": "Open?", "chosen": "Yes."},
            "preference_pair",
            "there is no 'rejected'; there is 'prompt', 'chosen'",
        ),
        (
            {"input": {"messages": [user("Open?")]}, "preferred_output": [model("Yes.")]},
            "preference",
            "there is no 'non_preferred_output'; there is 'input', 'preferred_output'",
        ),
        (
            {"input": {"messages": [user("Open?")]}, "preferred_output": [model("Yes.")], "non_preferred_output": None},
            "preference",
            "non_preferred_output is null; expected a list of messages",
        ),
        ({"preferred_output": [model("a")], "non_preferred_output": [model("b")]}, "preference", "there is no 'input'"),
        ({"chosen_messages": [user("q"), model("a")]}, "preference_messages", "there is no 'rejected_messages'"),
    ],
)
def test_an_absent_key_is_called_absent(row: dict[str, Any], name: str, message: str) -> None:
    _, faults = read_row(row, name)
    assert [fault for fault in faults if fault.startswith(message)]
    assert "null" in message or not any("null" in fault for fault in faults)


WORDS = st.text(min_size=1, max_size=20).filter(str.strip)


@given(
    turns=st.lists(WORDS.filter(lambda text: "Human:" not in text and "Assistant:" not in text), min_size=2, max_size=6)
)
def test_transcripts_lose_nothing(turns: list[str]) -> None:
    turns = turns[: len(turns) // 2 * 2]
    names = ("Human", "Assistant")
    text = "".join(f"\n\n{names[index % 2]}: {turn}" for index, turn in enumerate(turns))
    rejected = text[: len(text) - len(turns[-1])] + "another answer"
    example, faults = read_row(orjson.loads(orjson.dumps({"chosen": text, "rejected": rejected})))
    if turns[-1].strip() == "another answer":
        return
    assert faults == []
    assert example.preference is not None
    read = [turn.words for turn in (*example.messages, *example.preference.preferred)]
    assert read == [turn.strip() for turn in turns]
