"""JSON Schemas that can be decided, as pydantic writes them, and those that cannot."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from llmtune.errors import InvalidData
from llmtune.metrics.decision_schema import plan_decisions, read_schema


def test_one_question() -> None:
    questions, answers = read_schema({"enum": ["billing", "shipping"], "title": "Team"})
    assert (questions[0].name, answers) == ("answer", ("billing", "shipping"))
    questions, answers = read_schema({"type": "boolean"})
    assert (questions[0].kind, questions[0].values, answers) == ("yes_no", (False, True), ("false", "true"))
    questions, answers = read_schema({"type": "integer", "minimum": 1, "maximum": 5})
    assert (questions[0].kind, answers) == ("score", ("1", "2", "3", "4", "5"))


class Team(StrEnum):
    A = "a"
    B = "b"


class Ticket(BaseModel):
    team: Team
    urgent: bool
    kind: Literal["x", "y"]
    stars: Annotated[int, Field(ge=1, le=3)]


def test_a_pydantic_class_is_several_questions() -> None:
    questions, answers = read_schema(Ticket.model_json_schema())
    assert [(question.name, question.kind) for question in questions] == [
        ("team", "choice"),
        ("urgent", "yes_no"),
        ("kind", "choice"),
        ("stars", "score"),
    ]
    assert len(answers) == 2 * 2 * 2 * 3
    assert Ticket.model_validate_json(answers[0]) == Ticket(team=Team.A, urgent=False, kind="x", stars=1)
    decisions = plan_decisions(Ticket.model_json_schema(), None).decide([float(-n) for n in range(24)])
    assert (decisions["urgent"].answer, decisions["stars"].answer) == (False, 1)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("text", "a JSON Schema is an object"),
        ({}, "only enum, boolean and bounded integer"),
        ({"type": "string"}, 'not "string"'),
        ({"enum": []}, "2 to 1,000"),
        ({"enum": ["a", "a"]}, "must differ"),
        ({"enum": ["a", ""]}, "none may be empty"),
        ({"enum": ["a", float("inf")]}, "texts or numbers"),
        ({"enum": [["a"], "b"]}, "texts or numbers"),
        ({"enum": ["a", "b"], "pattern": "x"}, "'pattern' is not understood"),
        ({"type": "integer"}, "needs a minimum and a maximum"),
        ({"type": "integer", "minimum": 0, "maximum": 10**9}, "at most 999 apart"),
        ({"type": "integer", "minimum": True, "maximum": 3}, "whole numbers"),
        ({"type": "object"}, "needs properties"),
        ({"properties": {"a": {"$ref": "#/$defs/missing"}}}, "names no definition"),
        ({"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"$ref": "#/$defs/a"}}}, "names no definition"),
        ({"properties": {"a": 1}}, "schema.properties.a"),
        ({"properties": {f"q{n}": {"type": "boolean"} for n in range(60)}}, "at most 1,000 can be compared"),
        ({"enum": ["a", "b" * 2000]}, "2,000 characters is too long"),
    ],
)
def test_what_cannot_be_decided_is_refused_by_name(schema: Any, message: str) -> None:
    with pytest.raises(InvalidData) as caught:
        read_schema(schema)
    assert message in f"{caught.value.message}"


def test_without_a_schema_a_model_needs_labels_of_its_own() -> None:
    with pytest.raises(InvalidData, match="no calibrated labels of its own"):
        plan_decisions(None, None)
