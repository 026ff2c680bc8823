"""Rows of reinforcement jobs: a question, and after it the right answer alone."""

from __future__ import annotations

import pytest

from llmtune.data.example import Example, Message
from llmtune.data.formats.reinforcement import list_prompt_problems

SYSTEM, QUESTION, ANSWER = Message("system", "Be brief."), Message("user", "2 + 2?"), Message("assistant", "4")


@pytest.mark.parametrize(
    ("turns", "codes"),
    [
        ((SYSTEM, QUESTION, ANSWER), []),
        ((QUESTION,), []),
        ((QUESTION, ANSWER, QUESTION, ANSWER), []),
        ((ANSWER,), ["no-question"]),
        ((SYSTEM, ANSWER), ["no-question"]),
        ((QUESTION, ANSWER, QUESTION), ["lost-turns"]),
    ],
)
def test_a_row_is_a_question_with_one_answer(turns: tuple[Message, ...], codes: list[str]) -> None:
    assert [problem.code for problem in list_prompt_problems(Example(turns), ("right_answer",))] == codes


def test_a_field_where_the_right_answer_is_written_is_refused() -> None:
    example = Example((QUESTION, ANSWER), extra={"right_answer": "5", "unit": "kg"})
    (problem,) = list_prompt_problems(example, ("right_answer",))
    assert problem.code == "own-field"
    assert "'right_answer'" in problem.message
