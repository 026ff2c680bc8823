"""JSON Schemas of decisions: what a caller may ask a model to decide.

A schema is one question (`enum`, `boolean`, or `integer` with `minimum` and `maximum`), or an object of several, as
pydantic writes it for a class of `Literal`, `bool` and bounded `int` fields. What is not understood is refused by name.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmtune.errors import InvalidData
from llmtune.metrics.decisions import (
    SINGLE,
    Decision,
    DecisionRule,
    DecisionRules,
    Question,
    Value,
    decide,
    match_rules,
)

#: Whole answers that one schema may stand for, and characters of one of them.
MOST_ANSWERS, LONGEST_ANSWER = 1000, 1000
#: Keywords that say nothing about the answer.
_IGNORED = ("title", "description", "default", "examples", "$schema", "$id", "$defs", "definitions")
_HINT = 'such as {"enum": ["billing", "shipping"]}, {"type": "boolean"} or an object of such properties'


@dataclass(frozen=True)
class DecisionPlan:
    """What a model is asked so that the questions of a schema can be decided."""

    labels: tuple[str, ...]
    """The whole answers whose likelihoods are needed."""

    questions: tuple[Question, ...]
    rules: tuple[DecisionRule, ...] = ()
    """One for each question; empty where the model was calibrated on other answers, or not at all."""

    def decide(self, scores: Sequence[float]) -> dict[str, Decision]:
        """Decide every question, by name, from the log-likelihood of each label."""
        return decide(scores, self.labels, self.questions, self.rules)


def plan_decisions(schema: Any, rules: DecisionRules | None) -> DecisionPlan:
    """Return what is asked for a schema, by the rules of the model where they are for the same questions.

    Args:
        schema: a JSON Schema; None takes the questions of the rules.
        rules: those of the model; None where it has none.

    Raises:
        InvalidData: it is no such schema, or there is neither a schema nor a rule.
    """
    if schema is None:
        if rules is None:
            raise InvalidData("schema is missing: this model has no calibrated labels of its own", hint=_HINT)
        return DecisionPlan(rules.labels, tuple(rule.question for rule in rules.rules), rules.rules)
    questions, answers = read_schema(schema)
    matched = match_rules(questions, rules)
    if matched is None or rules is None:
        return DecisionPlan(answers, questions)
    return DecisionPlan(rules.labels, matched, rules.rules)


def read_schema(schema: Any) -> tuple[tuple[Question, ...], tuple[str, ...]]:
    """Return the questions of a JSON Schema, and the whole answers that a model is asked about.

    Raises:
        InvalidData: it is no such schema, or stands for more than 1,000 answers.
    """
    if not isinstance(schema, Mapping):
        raise InvalidData("schema: a JSON Schema is an object", hint=_HINT)
    if schema.get("type") != "object" and "properties" not in schema:
        question = Question.of(SINGLE, _read_values(schema, schema, "schema"))
        return (question,), _check_answers(question.options)
    _check_keywords(schema, ("type", "properties", "required", "additionalProperties"), "schema")
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        raise InvalidData("schema: an object needs properties", hint=_HINT)
    values_by_name = {
        str(name): _read_values(property_schema, schema, f"schema.properties.{name}")
        for name, property_schema in properties.items()
    }
    count = math.prod(len(values) for values in values_by_name.values())
    if count > MOST_ANSWERS:
        raise InvalidData(
            f"schema: {len(values_by_name)} properties have {count:,} answers together, and at most {MOST_ANSWERS:,}"
            " can be compared",
            hint="ask fewer questions at once",
        )
    questions = tuple(Question.of(name, values) for name, values in values_by_name.items())
    answers = tuple(
        json.dumps(dict(zip(values_by_name, combination, strict=True)), ensure_ascii=False)
        for combination in itertools.product(*values_by_name.values())
    )
    return questions, _check_answers(answers)


def _read_values(schema: Any, root: Mapping[str, Any], where: str) -> tuple[Value, ...]:
    if isinstance(schema, Mapping) and "$ref" in schema:
        schema = _resolve_reference(schema["$ref"], root, where)
    if not isinstance(schema, Mapping):
        raise InvalidData(f"{where}: a JSON Schema is an object", hint=_HINT)
    type_name = schema.get("type")
    if "enum" in schema:
        _check_keywords(schema, ("type", "enum"), where)
        return _check_enum(schema["enum"], where)
    if type_name == "boolean":
        _check_keywords(schema, ("type",), where)
        return (False, True)
    if type_name == "integer":
        _check_keywords(schema, ("type", "minimum", "maximum"), where)
        low, high = schema.get("minimum"), schema.get("maximum")
        bounded = all(isinstance(end, int) and not isinstance(end, bool) for end in (low, high))
        if not bounded or not 1 <= high - low < MOST_ANSWERS:  # type: ignore[operator]
            raise InvalidData(
                f"{where}: an integer needs a minimum and a maximum, whole numbers at most {MOST_ANSWERS - 1} apart"
            )
        return tuple(range(low, high + 1))  # type: ignore[arg-type, operator]
    described = json.dumps(type_name, default=str)[:60]
    raise InvalidData(
        f"{where}: only enum, boolean and bounded integer can be decided, not {described}",
        hint=_HINT,
    )


def _resolve_reference(reference: Any, root: Mapping[str, Any], where: str) -> Any:
    """Return the definition that "#/$defs/NAME" points to."""
    parts = reference.split("/") if isinstance(reference, str) else []
    definitions = root.get(parts[1]) if len(parts) == 3 and parts[0] == "#" else None
    definition = definitions.get(parts[2]) if isinstance(definitions, Mapping) else None
    if not isinstance(definition, Mapping) or "$ref" in definition:
        raise InvalidData(f"{where}: the reference {str(reference)[:60]!r} names no definition of this schema")
    return definition


def _check_enum(values: Any, where: str) -> tuple[Value, ...]:
    is_valid = isinstance(values, list) and all(
        isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)) for value in values
    )
    if not is_valid or not 2 <= len(values) <= MOST_ANSWERS:
        raise InvalidData(f"{where}: enum is a list of 2 to {MOST_ANSWERS:,} texts or numbers")
    texts = {value if isinstance(value, str) else json.dumps(value) for value in values}
    if len(texts) != len(values) or "" in texts:
        raise InvalidData(f"{where}: the values of enum must differ, and none may be empty")
    return tuple(values)


def _check_keywords(schema: Mapping[str, Any], understood: tuple[str, ...], where: str) -> None:
    unknown = [str(name) for name in schema if name not in understood and name not in _IGNORED]
    if unknown:
        raise InvalidData(f"{where}: {unknown[0][:60]!r} is not understood here", hint=_HINT)


def _check_answers(answers: tuple[str, ...]) -> tuple[str, ...]:
    longest = max(map(len, answers))
    if longest > LONGEST_ANSWER:
        raise InvalidData(f"schema: an answer of {longest:,} characters is too long (at most {LONGEST_ANSWER:,})")
    return answers
