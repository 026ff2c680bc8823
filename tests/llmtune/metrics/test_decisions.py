"""Questions of labels, and what is decided about them."""

from __future__ import annotations

import json
import math

import pytest

from llmtune.errors import InvalidData
from llmtune.metrics.abstention import Threshold
from llmtune.metrics.calibrators import Calibrator
from llmtune.metrics.decision_schema import plan_decisions
from llmtune.metrics.decisions import (
    DecisionRule,
    DecisionRules,
    Question,
    assign_options,
    decide,
    find_questions,
    match_rules,
    sum_options,
)

TEAMS = ('{"team": "a", "urgent": "no"}', '{"team": "a", "urgent": "yes"}', '{"team": "b", "urgent": "no"}')


def rules(labels: tuple[str, ...], threshold: float | None = 0.7, *, temperature: float = 1.0) -> DecisionRules:
    promise = Threshold(error=0.05, confidence=0.95, value=threshold, rows=200)
    calibrator = Calibrator(temperature=temperature, rows=200)
    questions = find_questions(labels)
    entries = tuple(DecisionRule(question=entry, calibrator=calibrator, promise=promise) for entry in questions)
    return DecisionRules(labels=labels, rules=entries)


def test_labels_ask_one_question_by_their_kind() -> None:
    (choice,) = find_questions(["billing", "shipping"])
    assert (choice.name, choice.kind, choice.options) == ("answer", "choice", ("billing", "shipping"))
    (yes_no,) = find_questions(["no", "Yes"])
    assert yes_no.kind == "yes_no"
    (score,) = find_questions(["1", "2", "3"])
    assert (score.kind, score.values) == ("score", (1, 2, 3))
    assert find_questions(["1", "2"])[0].kind == "choice"


def test_json_labels_ask_one_question_a_field() -> None:
    team, urgent = find_questions(TEAMS)
    assert (team.name, team.options, urgent.name, urgent.kind) == ("team", ("a", "b"), "urgent", "yes_no")
    assert assign_options(TEAMS, [team, urgent]) == [[0, 0, 1], [0, 1, 0]]
    scored = find_questions(['{"stars": 10}', '{"stars": 9}', '{"stars": 2}'])
    assert scored[0].values == (2, 9, 10)  # a scale stands in its order


@pytest.mark.parametrize(
    "labels",
    [('{"a": 1}', '{"b": 1}'), ('{"a": [1]}', '{"a": 2}'), ("{", "}"), ('{"a": 1}', "no"), ('{"a": 1}', '{"a": 1 }')],
)
def test_other_labels_are_taken_as_they_are(labels: tuple[str, ...]) -> None:
    (question,) = find_questions(labels)
    assert (question.name, question.options) == ("answer", labels)


def test_the_probability_of_a_fields_value_is_the_sum_over_the_answers_that_have_it() -> None:
    scores = [[math.log(0.5), math.log(0.2), math.log(0.3)]]
    assert sum_options(scores, [0, 0, 1], 2)[0] == pytest.approx([math.log(0.7), math.log(0.3)])
    decisions = decide(scores[0], TEAMS, find_questions(TEAMS))
    assert decisions["team"].probabilities == pytest.approx({"a": 0.7, "b": 0.3})
    assert decisions["urgent"].probabilities == pytest.approx({"no": 0.8, "yes": 0.2})
    assert (decisions["team"].answer, decisions["team"].abstained, decisions["team"].calibrated) == ("a", None, False)


def test_rules_calibrate_and_withhold() -> None:
    stored = rules(TEAMS, 0.75)
    plan = plan_decisions(None, stored)
    decisions = plan.decide([math.log(0.5), math.log(0.2), math.log(0.3)])
    assert (decisions["team"].abstained, decisions["urgent"].abstained) == (True, False)
    assert decisions["team"].calibrated
    colder = plan_decisions(None, rules(TEAMS, 0.75, temperature=0.5)).decide(
        [math.log(0.5), math.log(0.2), math.log(0.3)]
    )
    assert colder["team"].confidence == pytest.approx(0.49 / (0.49 + 0.09))


def test_a_promise_that_could_not_be_given_withholds_everything() -> None:
    decisions = plan_decisions(None, rules(("x", "y"), None)).decide([0.0, -100.0])
    assert decisions["answer"].abstained is True


def test_a_score_is_the_mean_of_the_scale() -> None:
    decisions = decide([math.log(0.5), math.log(0.3), math.log(0.2)], ("1", "2", "3"), find_questions(["1", "2", "3"]))
    assert decisions["answer"].score == pytest.approx(1.7)
    assert decisions["answer"].answer == 1


def test_rules_are_for_the_same_answers_only() -> None:
    stored = rules(("no", "yes"))
    boolean = Question.of("answer", (False, True))
    (matched,) = match_rules([boolean], stored) or ()
    assert (matched.options, matched.values) == (("no", "yes"), (False, True))
    assert match_rules([Question.of("answer", ("a", "b"))], stored) is None
    assert match_rules([Question.of("other", ("no", "yes"))], stored) is None
    assert match_rules([boolean], None) is None
    reordered = match_rules([Question.of("answer", ("y", "x"))], rules(("x", "y")))
    assert reordered is not None
    assert reordered[0].options == ("x", "y")


def test_stored_rules_are_read_back_and_damage_is_named() -> None:
    stored = rules(TEAMS)
    assert DecisionRules.from_json(stored.to_json(), "decisions.json") == stored
    for text in ("", "[]", '{"schema_version": 2}', json.dumps({"labels": ["a"], "rules": [{}]})):
        with pytest.raises(InvalidData, match=r"decisions\.json holds no decision rules") as caught:
            DecisionRules.from_json(text, "decisions.json")
        assert "llmtune evaluate" in str(caught.value.hint)
