"""Decisions: the questions that a set of labels answers, and what a model decides, with probabilities and abstention.

A row may ask one question (its label is the answer) or several (its label is a JSON object with one field for each).
Of several, the model is asked how likely each whole answer is; the probability of one field's value is the sum over the
answers that have it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Final, Literal

from pydantic import ValidationError

from llmtune._models import DocumentedModel
from llmtune.errors import InvalidData
from llmtune.metrics.abstention import Threshold
from llmtune.metrics.calibration import to_probabilities
from llmtune.metrics.calibrators import Calibrator
from llmtune.metrics.points import Number

#: What kind of answer a question has: one of several, yes or no, or a number on a scale.
QuestionKind = Literal["choice", "yes_no", "score"]

#: A JSON value that an answer can be.
Value = str | bool | int | float

#: The name of the question of rows that ask only one.
SINGLE: Final = "answer"
#: Version of the stored rules.
RULES_VERSION: Final = 1
#: The words that yes and no are written as.
_YES, _NO = ("yes", "true"), ("no", "false")


class Question(DocumentedModel):
    """One question: its `name`, its `kind`, and the answers that it can have."""

    name: str
    kind: QuestionKind
    options: tuple[str, ...]
    """The answers as text, in a fixed order."""

    values: tuple[Value, ...]
    """The same as JSON values: a score is a number."""

    @classmethod
    def of(cls, name: str, values: Sequence[Value]) -> Question:
        """Return the question whose answers are these values, in their order."""
        options = tuple(_write_value(value) for value in values)
        numbers = [_read_number(value) for value in values]
        if len(values) > 2 and all(number is not None for number in numbers):
            return cls(
                name=name,
                kind="score",
                options=options,
                values=tuple(number for number in numbers if number is not None),
            )
        words = {option.casefold() for option in options}
        kind: QuestionKind = "yes_no" if words in ({"yes", "no"}, {"true", "false"}) else "choice"
        return cls(name=name, kind=kind, options=options, values=tuple(values))

    def compute_score(self, probabilities: Sequence[float]) -> float | None:
        """Return the mean of the scale by these probabilities; None where the answers are no numbers."""
        if self.kind != "score":
            return None
        return sum(share * float(value) for share, value in zip(probabilities, self.values, strict=True))


class DecisionRule(DocumentedModel):
    """How one question is decided: by which calibrator, and from which confidence on under which promise."""

    question: Question
    calibrator: Calibrator
    promise: Threshold | None = None
    """None where no promise was asked for."""


class DecisionRules(DocumentedModel):
    """The rules of a tuned model, as they are stored beside it (`decisions.json`)."""

    schema_version: Literal[1] = RULES_VERSION
    """Changes when a field changes its meaning."""

    labels: tuple[str, ...]
    """The whole answers that the model is asked about."""

    rules: tuple[DecisionRule, ...]
    """One for each question."""

    def to_json(self) -> str:
        """Return the rules as JSON text."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, source: str) -> DecisionRules:
        """Read rules. Raises `InvalidData` that names `source` where they are damaged."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise InvalidData(
                f"{source} holds no decision rules: {'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}",
                hint="`llmtune evaluate RUN` writes them again",
            ) from None


class Decision(DocumentedModel):
    """What a model decides about one question."""

    question: str
    """Its name; "answer" where there is only one."""

    answer: Value
    """The likeliest answer."""

    confidence: Number
    """Its probability, 0..1."""

    probabilities: dict[str, Number]
    """Of every answer, by its text."""

    score: Number | None = None
    """The mean of the scale, where answers are numbers."""

    abstained: bool | None = None
    """Whether the answer is less sure than the promise needs; None where no promise was asked for. Where one was, and
    the rows could not carry it, every answer is withheld."""

    calibrated: bool = False
    """Whether the probabilities were calibrated on held-out rows."""


def find_questions(labels: Sequence[str]) -> tuple[Question, ...]:
    """Return the questions that labels answer: one for each field where all are JSON objects of the same fields."""
    objects = [_read_object(label) for label in labels]
    first = objects[0] if objects else None
    fields = () if first is None else tuple(first)
    if not fields or any(entry is None or tuple(entry) != fields for entry in objects):
        return (Question.of(SINGLE, tuple(labels)),)
    values_by_field: dict[str, dict[str, Value]] = {field: {} for field in fields}
    for entry in objects:
        for field, value in (entry or {}).items():
            values_by_field[field].setdefault(_write_value(value), value)
    questions = []
    for field, values in values_by_field.items():
        if len(values) < 2:  # always the same: nothing is decided
            continue
        numbers = [_read_number(value) for value in values.values()]
        ordered = list(values.values())
        if all(number is not None for number in numbers):
            ordered = [value for _, value in sorted(zip(numbers, ordered, strict=True), key=lambda pair: pair[0] or 0)]
        questions.append(Question.of(field, ordered))
    return tuple(questions) or (Question.of(SINGLE, tuple(labels)),)


def assign_options(labels: Sequence[str], questions: Sequence[Question]) -> list[list[int]]:
    """Return for each question which of its options each label has, as an index; -1 for none."""
    objects = [_read_object(label) for label in labels]
    assigned = []
    for question in questions:
        index = {option: number for number, option in enumerate(question.options)}
        if question.name == SINGLE and all(label in index for label in labels):
            assigned.append([index[label] for label in labels])
        else:
            assigned.append(
                [
                    index.get(_write_value(entry[question.name]), -1) if entry and question.name in entry else -1
                    for entry in objects
                ]
            )
    return assigned


def sum_options(scores: Sequence[Sequence[float]], options: Sequence[int], count: int) -> list[list[float]]:
    """Return the log-likelihoods of a question's options, from those of the labels.

    Args:
        scores: log-likelihoods of the labels, [rows][labels].
        options: which option each label has.
        count: how many options there are.
    """
    members = [[label for label, option in enumerate(options) if option == number] for number in range(count)]
    return [[_log_sum([row[label] for label in group]) for group in members] for row in scores]


def decide(
    scores: Sequence[float], labels: Sequence[str], questions: Sequence[Question], rules: Sequence[DecisionRule] = ()
) -> dict[str, Decision]:
    """Decide every question of one row, by name.

    Args:
        scores: log-likelihood of each label, as the model finds it.
        labels: the whole answers.
        questions: what they answer; with their own values.
        rules: one for each question, whose options stand in the same order; none decides without calibration.
    """
    decisions = {}
    for number, (question, options) in enumerate(zip(questions, assign_options(labels, questions), strict=True)):
        rule = rules[number] if rules else None
        if rule is not None:
            options = assign_options(labels, [rule.question])[0]
        (marginal,) = sum_options([scores], options, len(question.options))
        probabilities = to_probabilities(marginal) if rule is None else rule.calibrator.apply([marginal])[0]
        confidence = max(probabilities)
        likeliest = probabilities.index(confidence)
        promise = rule.promise if rule is not None else None
        decisions[question.name] = Decision(
            question=question.name,
            answer=question.values[likeliest],
            confidence=confidence,
            probabilities=dict(zip(question.options, probabilities, strict=True)),
            score=question.compute_score(probabilities),
            abstained=None if promise is None else promise.value is None or confidence < promise.value,
            calibrated=rule is not None,
        )
    return decisions


def match_rules(questions: Sequence[Question], rules: DecisionRules | None) -> tuple[Question, ...] | None:
    """Return the questions with their options in the order of the rules; None where the rules are for others.

    A rule is for a question of the same name and the same answers, or where both are answered by yes or no.
    """
    if rules is None or {question.name for question in questions} != {rule.question.name for rule in rules.rules}:
        return None
    by_name = {question.name: question for question in questions}
    matched = []
    for rule in rules.rules:
        question = by_name[rule.question.name]
        values = dict(zip(question.options, question.values, strict=True))
        if question.kind == rule.question.kind == "yes_no":
            truth = {option.casefold() in _YES: value for option, value in values.items()}
            values = {option: truth[option.casefold() in _YES] for option in rule.question.options}
        if set(values) != set(rule.question.options):
            return None
        ordered = tuple(values[option] for option in rule.question.options)
        matched.append(
            Question(name=question.name, kind=rule.question.kind, options=rule.question.options, values=ordered)
        )
    return tuple(matched)


def _read_object(label: str) -> dict[str, Value] | None:
    """Return a label as a JSON object of plain values; None where it is none."""
    if not label.startswith("{"):
        return None
    try:
        value = json.loads(label)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not all(isinstance(entry, str | bool | int | float) for entry in value.values()):
        return None
    return value


def _write_value(value: Value) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _read_number(value: Value) -> int | float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return None
        if not math.isfinite(number):
            return None
        return int(number) if number == int(number) and "." not in value else number
    return value if math.isfinite(value) else None


def _log_sum(values: Sequence[float]) -> float:
    highest = max(values, default=-math.inf)
    if not math.isfinite(highest):
        return highest
    return highest + math.log(sum(math.exp(value - highest) for value in values))


__all__ = [
    "Decision",
    "DecisionRule",
    "DecisionRules",
    "Question",
    "QuestionKind",
    "Value",
    "assign_options",
    "decide",
    "find_questions",
    "match_rules",
    "sum_options",
]
