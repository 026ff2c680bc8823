"""Rows of a question and an answer, under the names that people's files have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtune.data.example import Example, Message, ToolCall
from llmtune.data.findings import Finding
from llmtune.data.formats.instruct import _EMPTY_CELLS
from llmtune.data.formats.registry import detect, get_format
from llmtune.data.formats.sharegpt import SHAREGPT
from llmtune.data.io.reading import read

WORDS = st.text(min_size=1, max_size=30).filter(str.strip)
#: A table's empty cell is warned of where it is a label.
LABELS = WORDS.filter(lambda text: text not in _EMPTY_CELLS)


def read_row(row: dict[str, Any]) -> Example:
    fmt = detect(row)
    assert fmt is not None
    faults: list[Finding] = []
    example = fmt.read(orjson.loads(orjson.dumps(row)), 1, faults)
    assert faults == []
    return example


def errors_of(row: dict[str, Any]) -> list[str]:
    fmt = detect(row)
    assert fmt is not None
    faults: list[Finding] = []
    fmt.read(row, 1, faults)
    return [fault.message for fault in faults]


def texts(example: Example) -> list[tuple[str, str]]:
    return [(turn.role, turn.words) for turn in example.messages]


@pytest.mark.parametrize(
    ("row", "question", "answer"),
    [
        ({"input": "6 x 7", "output": "42"}, "6 x 7", "42"),
        ({"instruction": "Add", "response": "ok"}, "Add", "ok"),
        ({"instruction": "When?", "context": "Built 1902.", "response": "1902"}, "When?\n\nBuilt 1902.", "1902"),
        ({"instruction": "When?", "context": "", "response": "1902"}, "When?", "1902"),
        ({"query": "When?", "response": "1902"}, "When?", "1902"),
        ({"question": "When?", "context": "Built 1902.", "answer": "1902"}, "When?\n\nBuilt 1902.", "1902"),
        ({"article": "Built 1902.", "question": "When?", "answer": "1902"}, "When?\n\nBuilt 1902.", "1902"),
        ({"article": "A long story", "summary": "short"}, "A long story", "short"),
        ({"prompt": "When?", "generation": "1902"}, "When?", "1902"),
        ({"message_1": "When?", "message_2": "1902"}, "When?", "1902"),
        ({"prompt": "When?", "completion": "1902", "context": None}, "When?", "1902"),
    ],
)
def test_question_and_answer_under_the_names_of_many_sets(row: dict[str, Any], question: str, answer: str) -> None:
    assert texts(read_row(row)) == [("user", question), ("assistant", answer)]


@pytest.mark.parametrize("names", [("query", "response"), ("instruction", "output"), ("prompt", "completion")])
def test_history_and_system_prompt_come_first(names: tuple[str, str]) -> None:
    row = {names[0]: "And Vik?", names[1]: "1.8 m", "history": [["Holm?", "2.1 m"]], "system_prompt": "Be brief."}
    assert texts(read_row(row)) == [
        ("system", "Be brief."),
        ("user", "Holm?"),
        ("assistant", "2.1 m"),
        ("user", "And Vik?"),
        ("assistant", "1.8 m"),
    ]


def test_keys_in_any_case_are_read(tmp_path: Path) -> None:
    for number, row in enumerate(
        [
            {"INSTRUCTION": "q", "RESPONSE": "a"},
            {"Prompt": "q", "Completion": "a"},
            {"Messages": [{"Role": "user", "Content": "q"}, {"Role": "assistant", "Content": "a"}]},
            {"text": "q", "Label": "a"},
        ]
    ):
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(orjson.dumps(row) + b"\n")
        (example,) = read(path)
        assert isinstance(example, Example)
        assert texts(example) == [("user", "q"), ("assistant", "a")]
        assert not example.extra


def test_a_heading_is_put_before_the_text_it_belongs_to() -> None:
    row = {"title": "Ferry cancelled", "description": "Wind above 20 m/s", "label": "travel"}
    assert read_row(row).messages[0].content == "Ferry cancelled\n\nWind above 20 m/s"
    assert read_row({"title": "Ferry cancelled", "label": "travel"}).messages[0].content == "Ferry cancelled"
    with_text = read_row({"title": "Ferry", "text": "It was late", "label": "travel"})
    assert with_text.messages[0].content == "It was late"
    assert with_text.extra == {"title": "Ferry"}


@pytest.mark.parametrize(
    ("cell", "label"),
    [
        ("['late', 'rude']", ("late", "rude")),
        ('["late", "rude"]', ("late", "rude")),
        ("[1, 2]", ("1", "2")),
        ("[]", ()),
        ("[late]", "[late]"),
        ("[late, 'rude']", "[late, 'rude']"),
    ],
)
def test_a_cell_that_spells_a_list_is_several_labels(cell: str, label: Any) -> None:
    assert read_row({"text": "Never again", "label": cell}).label == label


CALLING: dict[str, Any] = {"name": "tide", "arguments": {"at": "Holm"}}


def test_several_calls_of_a_turn_and_their_answers() -> None:
    example = read_row(
        {
            "conversations": [
                {"from": "human", "value": "Tides?"},
                {"from": "function_call", "value": json.dumps([CALLING, {"name": "tide", "arguments": {"at": "Vik"}}])},
                {"from": "observation", "value": '[{"m": 2.1}, "unknown"]'},
                {"from": "gpt", "value": "2.1 m"},
            ]
        }
    )
    assert [(call.name, call.arguments) for call in example.messages[1].tool_calls] == [
        ("tide", '{"at":"Holm"}'),
        ("tide", '{"at":"Vik"}'),
    ]
    assert [(turn.tool_call_id, turn.content) for turn in example.messages[2:4]] == [
        ("call_1", '{"m":2.1}'),
        ("call_2", "unknown"),
    ]


def test_what_was_thought_before_a_call_is_kept_as_reasoning() -> None:
    value = "<think>\nAsk the table.\n</think>\n\n" + json.dumps(CALLING)
    rows = [{"from": "human", "value": "Tide?"}, {"from": "function_call", "value": value}]
    turn = read_row({"conversations": [*rows, {"from": "observation", "value": "2.1"}]}).messages[1]
    assert turn.tool_calls == (ToolCall("call_1", "tide", '{"at":"Holm"}'),)
    assert (turn.reasoning, turn.extra) == ("Ask the table.", None)


def test_faults_of_sharegpt_rows_are_told_in_their_own_words() -> None:
    orphan = [{"from": "human", "value": "Tide?"}, {"from": "observation", "value": "2.1"}]
    (message,) = errors_of({"conversations": orphan})
    assert message == "conversations[1] is an observation, and no function_call before it waits for one"
    broken = [{"from": "human", "value": "Tide?"}, {"from": "function_call", "value": "tide(Holm)"}]
    (message,) = errors_of({"conversations": broken})
    assert message == "conversations[1]: the function_call holds no call"
    (message,) = errors_of({"conversations": [{"from": "human", "value": "Tide?"}, {"from": "gpt"}]})
    assert message == "conversations[1] has no value; expected a string"


@pytest.mark.parametrize("number", [2**64 + 1, -(2**70), 10**40 + 7])
def test_integers_of_any_length_keep_their_digits_in_calls(number: int) -> None:
    value = json.dumps({"name": "track", "arguments": {"parcel": number}})
    turns = [{"from": "human", "value": "Where?"}, {"from": "function_call", "value": value}]
    example = read_row({"conversations": [*turns, {"from": "observation", "value": "here"}]})
    assert json.loads(example.messages[1].tool_calls[0].arguments) == {"parcel": number}
    chat = {"messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": None}]}
    chat["messages"][1]["tool_calls"] = [{"id": "c", "function": {"name": "f", "arguments": f'{{"n": {number}}}'}}]
    assert read_row(chat).messages[1].tool_calls[0].arguments == f'{{"n": {number}}}'
    # as an object, its digits are lost before anything can be done about it: the row is refused
    line = json.dumps(chat).replace(json.dumps(f'{{"n": {number}}}'), f'{{"n": {number}}}')
    faults: list[Finding] = []
    get_format("chat").read(orjson.loads(line), 1, faults)
    assert [fault.code for fault in faults] == ["tool-arguments"]


ARGUMENTS = st.dictionaries(st.text("xy", min_size=1, max_size=2), st.integers(), max_size=2)


@pytest.mark.slow
@given(
    question=WORDS,
    calls=st.lists(st.tuples(st.text("abc_", min_size=1, max_size=6), ARGUMENTS), min_size=1, max_size=3),
    answers=st.lists(WORDS, min_size=3, max_size=3),
    thought=st.none() | st.text("abc ", min_size=1, max_size=9).map(str.strip).filter(bool),
)
def test_calls_come_back_from_sharegpt_rows(question: str, calls: Any, answers: list[str], thought: str | None) -> None:
    tool_calls = tuple(
        ToolCall(f"call_{number}", name, json.dumps(arguments, separators=(",", ":")))
        for number, (name, arguments) in enumerate(calls, 1)
    )
    example = Example(
        (
            Message("user", question),
            Message("assistant", None, tool_calls, reasoning=thought),
            *(Message("tool", text, (), call.id) for call, text in zip(tool_calls, answers, strict=False)),
            Message("assistant", "done"),
        )
    )
    assert SHAREGPT.problems(example) == []
    faults: list[Finding] = []
    assert SHAREGPT.read(orjson.loads(orjson.dumps(SHAREGPT.write(example))), None, faults) == example
    assert faults == []


@given(
    first=WORDS,
    second=WORDS,
    third=LABELS,
    names=st.sampled_from(
        [("question", "context", "answer"), ("instruction", "context", "response"), ("title", "description", "label")]
    ),
    key=st.text("qwz", min_size=3, max_size=5),
    extra_text=st.text("qwzj", min_size=8, max_size=12),
)
def test_every_text_is_in_what_is_learned_or_among_the_keys_that_are_not(
    first: str, second: str, third: str, names: tuple[str, str, str], key: str, extra_text: str
) -> None:
    example = read_row({**dict(zip(names, (first, second, third), strict=True)), key: extra_text})
    if example.label.__class__ is tuple:  # a label that spells a list
        return
    learned = "\n".join(turn.words for turn in example.messages)
    assert all(text in learned for text in (first, second, third))
    assert example.extra == {key: extra_text}
