"""Decisions of evaluated models: calibrated on rows of their own, measured on test rows, and under a promise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import log_loss

from llmtune.data.example import Example
from llmtune.errors import InvalidData
from llmtune.evaluation.decisions import SPLIT_ROWS, LabelledScores, calibrate, keep_promise, measure_decisions
from llmtune.evaluation.evaluate import evaluate
from llmtune.evaluation.results import DecisionSystem, EvaluationResult
from llmtune.evaluation.task import ScoringOptions
from llmtune.job.spec import AbstainSpec, EvaluationSpec
from llmtune.metrics.calibrators import assign_parts, fit_calibrator
from llmtune.metrics.points import NotReported
from llmtune.provider.generation import GenerationRequest
from tests.llmtune.evaluation.conftest import LABELS, Likely, Scripted, ticket, truth

PROMISE = AbstainSpec(error=0.05)


class Unsure(Likely):
    """A model that errs in one row of five among those with an even number, and is less sure of all of these."""

    def score_labels(self, requests: Sequence[GenerationRequest], labels: Sequence[str]) -> list[list[float]]:
        rows = []
        for request in requests:
            prompt = request.messages[-1].words
            number = int(prompt.split()[-1])
            self.scored.append(prompt)
            sure = 0.0 if number % 2 else -5.0
            likeliest = LABELS[(number + 1) % 3] if number % 10 == 0 else truth(prompt)
            rows.append([sure if label == likeliest else -6.0 for label in labels])
        return rows


def run(spec: EvaluationSpec, *, validation: int = 300, model: Scripted | None = None) -> EvaluationResult:
    return evaluate(
        [ticket(number) for number in range(400)],
        {"tuned": model or Unsure(truth)},
        spec,
        train=[ticket(number) for number in range(1000, 1100)],
        validation=[ticket(number) for number in range(400, 400 + validation)],
        scoring=ScoringOptions(labels=LABELS, resamples=200),
    )


def decisions_of(result: EvaluationResult, name: str = "tuned") -> DecisionSystem:
    system = result.system(name)
    assert system is not None
    assert isinstance(system.decisions, DecisionSystem), system.decisions
    return system.decisions


def test_probabilities_are_calibrated_on_validation_rows_and_measured_on_test_rows() -> None:
    model = Unsure(truth)
    result = run(EvaluationSpec(max_rows=500, calibration_rows=300, abstain=PROMISE), model=model)
    (question,) = decisions_of(result).questions
    held = {f"ticket {number}" for number in range(400, 700)}
    assert held <= set(model.scored)
    assert question.rule.calibrator.rows == 300
    before, after = ({value.name: value.value for value in values} for values in (question.before, question.after))
    assert after["accuracy"] == before["accuracy"] == pytest.approx(0.9)
    assert after["log_loss"] < before["log_loss"]
    assert after["ece"] < before["ece"]
    likelihoods = Unsure(truth).score_labels(_requests(range(400)), LABELS)
    expected = log_loss(
        [number % 3 for number in range(400)], question.rule.calibrator.apply(likelihoods), labels=range(3)
    )
    assert after["log_loss"] == pytest.approx(expected)
    promise = question.promise
    assert promise is not None
    assert promise.coverage == pytest.approx(0.5)  # the odd ones, which it is sure of
    assert (promise.answered, promise.wrong, promise.threshold.answered) == (200, 0, 150)
    assert len(question.test_rows) == 400
    assert len(question.held_rows) == 300


def _requests(numbers: range) -> list[GenerationRequest]:
    return [GenerationRequest(messages=tuple(ticket(number).prompt())) for number in numbers]


def test_the_linear_model_is_calibrated_and_promises_too() -> None:
    result = run(EvaluationSpec(max_rows=500, calibration_rows=300, abstain=PROMISE))
    (question,) = decisions_of(result, "linear").questions
    assert question.promise is not None
    assert len(question.held_rows) == 300


def test_nothing_is_calibrated_unless_asked_for(tickets: list[Example]) -> None:
    model = Unsure(truth)
    result = run(EvaluationSpec(max_rows=500), model=model)
    tuned = result.system("tuned")
    assert tuned is not None
    assert isinstance(tuned.decisions, NotReported)
    assert len(model.scored) == 400
    assert result.decision_rules() is None


def test_too_few_rows_calibrate_nothing_and_say_so() -> None:
    tuned = run(EvaluationSpec(max_rows=500, calibration_rows=300), validation=20).system("tuned")
    assert tuned is not None
    assert isinstance(tuned.decisions, NotReported)
    assert "30 validation rows or more" in tuned.decisions.reason
    assert "there are 20" in tuned.decisions.reason


def test_validation_rows_that_cannot_be_used_do_not_stop_the_evaluation() -> None:
    foreign = [ticket(number, "riddle") for number in range(400, 460)]
    spec = EvaluationSpec(max_rows=500, calibration_rows=300)
    rows = [ticket(number) for number in range(60)]
    labels = ScoringOptions(labels=LABELS, resamples=50)
    result = evaluate(rows, {"tuned": Unsure(truth)}, spec, validation=foreign, scoring=labels)
    assert any(warning.startswith("nothing was calibrated: calibration line 401") for warning in result.warnings)

    class Short(Unsure):
        def score_labels(self, requests: Sequence[GenerationRequest], labels: Sequence[str]) -> list[list[float]]:
            if any(int(request.messages[-1].words.split()[-1]) >= 400 for request in requests):
                raise InvalidData("a prompt does not fit the model's context")
            return super().score_labels(requests, labels)

    held = [ticket(number) for number in range(400, 460)]
    result = evaluate(rows, {"tuned": Short(truth)}, spec, validation=held, scoring=labels)
    assert "the tuned model was not calibrated: a prompt does not fit the model's context" in result.warnings
    assert result.system("tuned") is not None


def test_a_promise_is_refused_with_the_rows_it_takes() -> None:
    result = run(EvaluationSpec(max_rows=500, calibration_rows=60, abstain=AbstainSpec(error=0.02)))
    (question,) = decisions_of(result).questions
    assert question.promise is not None
    assert question.promise.coverage is None
    assert "60 rows are too few: it takes about 183" in question.promise.threshold.reason
    rules = result.decision_rules()
    assert rules is not None
    assert rules.rules[0].promise is not None
    assert rules.rules[0].promise.value is None


def test_another_promise_can_be_tested_by_what_is_kept() -> None:
    result = run(EvaluationSpec(max_rows=500, calibration_rows=300))
    (question,) = decisions_of(result).questions
    assert question.promise is None
    assert keep_promise(question, 0.05, 0.95).coverage == pytest.approx(0.5)
    assert keep_promise(question, 0.2, 0.95).coverage == pytest.approx(1.0)


def test_a_result_with_decisions_is_stored_and_read_back() -> None:
    result = run(EvaluationSpec(max_rows=500, calibration_rows=300, abstain=PROMISE))
    assert EvaluationResult.model_validate_json(result.model_dump_json()) == result


def test_several_questions_are_measured_one_by_one() -> None:
    labels = tuple(f'{{"team": "{team}", "stars": {stars}}}' for team in "ab" for stars in (1, 2, 3))
    generator = np.random.default_rng(0)
    truths = generator.integers(0, 6, 500).tolist()
    scores = [[0.0 if label == true else -2.0 for label in range(6)] for true in truths]
    for row in scores[::7]:
        row[:3], row[3:] = row[3:], row[:3]  # the team is wrong, the stars are right
    held, test = LabelledScores(scores[:250], truths[:250]), LabelledScores(scores[250:], truths[250:])
    measured = measure_decisions(labels, held, test, None, resamples=50, seed=0)
    assert isinstance(measured, DecisionSystem)
    team, stars = measured.questions
    right = 1 - len(range(252, 500, 7)) / 250
    assert [value.value for value in team.after if value.name == "accuracy"] == [pytest.approx(right)]
    figures = {value.name: value for value in stars.after}
    assert figures["accuracy"].value == 1
    shares = [stars.rule.calibrator.apply(_sum_stars([row]))[0] for row in test.scores]
    expected = [
        abs(sum(share * (n + 1) for n, share in enumerate(row)) - (true % 3 + 1))
        for row, true in zip(shares, test.truth, strict=True)
    ]
    assert figures["score_error"].value == pytest.approx(sum(expected) / 250)


def _sum_stars(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[math.log(math.exp(row[n]) + math.exp(row[n + 3])) for n in range(3)] for row in rows]


def test_many_rows_are_divided_and_few_are_cross_fitted() -> None:
    generator = np.random.default_rng(1)
    scores = generator.normal(size=(SPLIT_ROWS, 3)).tolist()
    truths = generator.integers(0, 3, SPLIT_ROWS).tolist()
    calibrator, rated = calibrate(LabelledScores(scores, truths))
    assert calibrator.rows == len(rated) == SPLIT_ROWS // 2
    halves = assign_parts(SPLIT_ROWS, 2)
    rows = [row for row in range(SPLIT_ROWS) if halves[row] == 0]
    assert calibrator == fit_calibrator([scores[row] for row in rows], [truths[row] for row in rows]).calibrator
    calibrator, rated = calibrate(LabelledScores(scores[:-1], truths[:-1]))
    assert calibrator.rows == len(rated) == SPLIT_ROWS - 1
