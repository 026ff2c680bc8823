"""Why an answer differs, by its form; what is only spelled otherwise is the same."""

from __future__ import annotations

import pytest

from llmtune.data.example import Message, ToolCall
from llmtune.provider.generation import Generation, GenerationRequest
from llmtune.verifications.answers import AnswerPair, TurnMarks, explain_answers, same_answer
from llmtune.verifications.endpoint import ServerAnswer

MARKS = TurnMarks(ends=("<|im_end|>",), begins=("<|im_start|>assistant", "assistant"))
TEXT = 'The "Größe" is L & not XL.'


def explain(expected: str, *got: str, **fields: object) -> list[str]:
    request = GenerationRequest(messages=(Message("user", "Which size?"),))
    pairs = [
        AnswerPair(row, request, Generation(text=expected, finish_reason="stop"), ServerAnswer(text, "stop", **fields))  # type: ignore[arg-type]
        for row, text in enumerate(got, start=1)
    ]
    differences, unexplained = explain_answers(pairs, MARKS)
    return [difference.kind for difference in differences] + ["unexplained"] * len(unexplained)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"{TEXT}<|im_end|>", "end_token_in_answer"),
        (f"{TEXT}\nuser\nWhich size?", "stop_not_honoured"),
        (TEXT[:9], "answers_cut"),
        (f"assistant\n{TEXT}", "role_in_answer"),
        (f"Which size? {TEXT}", "prompt_in_answer"),
        ("", "answers_empty"),
        (TEXT.replace("&", "&amp;").replace('"', "&quot;"), "answers_rewritten"),
        (TEXT.encode().decode("latin-1"), "answers_rewritten"),
        (TEXT.lower(), "answers_rewritten"),
        (TEXT.replace("ö", "").replace("ß", ""), "answers_rewritten"),
        (f"```text\n{TEXT}\n```", "answers_rewritten"),
        (f"<think>Hm.</think>{TEXT}", "answers_rewritten"),
        ("Medium, I think.", "unexplained"),
    ],
)
def test_a_form_is_named(text: str, kind: str) -> None:
    assert explain(TEXT, text) == [kind]


def test_reasoning_beside_an_empty_content_is_named() -> None:
    assert explain(TEXT, "", reasoning=TEXT) == ["answer_in_reasoning"]


def test_one_odd_form_among_many_other_answers_is_no_cause() -> None:
    assert explain(TEXT, TEXT[:5], *["Something else."] * 9) == ["unexplained"] * 10


def test_spelling_is_no_difference() -> None:
    call, spelled = ToolCall("1", "look", '{"a":1,"b":"é"}'), ToolCall("x", "look", '{ "b": "\\u00e9", "a": 1 }')
    assert same_answer(Generation(text="", tool_calls=(call,)), ServerAnswer(" \n", "stop", (spelled,)))
    assert not same_answer(Generation(text="", tool_calls=(call,)), ServerAnswer("", "stop"))
    assert explain(TEXT, f" {TEXT}\n") == []
