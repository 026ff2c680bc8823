"""Decisions of an evaluated system: calibrated on rows of its own, measured before and after, and under a promise.

The rows of their own are validation rows, neither trained on nor tested. Where there are 1,000 or more, half of
them fit the calibrator and the others choose the threshold. Where there are fewer, the threshold is chosen on all of
them, each with the confidence that a calibrator gives it which was fitted on the other rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from llmtune.evaluation import scoring
from llmtune.evaluation.results import DecisionResult, DecisionSystem, MetricValue, Promise
from llmtune.evaluation.scoring import RowData
from llmtune.job.spec import AbstainSpec
from llmtune.metrics.abstention import Threshold, choose_threshold
from llmtune.metrics.calibration import brier_scores, log_losses, measure_calibration
from llmtune.metrics.calibrators import FEWEST_ROWS, Calibrator, assign_parts, fit_calibrator
from llmtune.metrics.decisions import DecisionRule, Question, assign_options, find_questions, sum_options
from llmtune.metrics.intervals import wilson
from llmtune.metrics.points import NotReported
from llmtune.metrics.registry import METRICS, Metric

#: From so many rows on, calibrator and threshold have rows of their own.
SPLIT_ROWS: Final = 1000
#: Rows of their own that are asked where a promise is wanted and the job does not say how many.
PROMISE_ROWS: Final = 2000

#: Figures of a question, before and after calibration.
_FIGURES = (METRICS["accuracy"], METRICS["ece"], METRICS["brier"], METRICS["log_loss"])
_SCORE_ERROR = Metric(
    "score_error",
    "distance of the mean of the scale from the true number, mean over rows",
    "row",
    better="lower",
    unit="",
)

#: Log-likelihoods of every label, for each row.
Scores = Sequence[Sequence[float]]


@dataclass(frozen=True)
class LabelledScores:
    """What a system finds of some rows: log-likelihoods of every label, and which one is true."""

    scores: Scores
    truth: Sequence[int]


def measure_decisions(
    labels: Sequence[str],
    held: LabelledScores,
    test: LabelledScores,
    abstain: AbstainSpec | None,
    *,
    resamples: int,
    seed: int,
) -> DecisionSystem | NotReported:
    """Calibrate each question on the held rows, and measure it on the test rows.

    Args:
        labels: the whole answers.
        held: rows that were neither trained on nor are tested.
        test: the test rows.
        abstain: the promise that is wanted; None wants none.
        resamples: bootstrap samples of the intervals.
        seed: of the resampling.

    Returns:
        The figures of every question, or why there are none.
    """
    if len(held.truth) < FEWEST_ROWS:
        return NotReported(
            f"calibration takes {FEWEST_ROWS} validation rows or more, neither trained on nor tested; there are"
            f" {len(held.truth)}"
        )
    questions = find_questions(labels)
    options_by_question = assign_options(labels, questions)
    return DecisionSystem(
        questions=tuple(
            _measure_question(
                question,
                _select_question(held, options, len(question.options)),
                _select_question(test, options, len(question.options)),
                abstain,
                resamples=resamples,
                seed=seed,
            )
            for question, options in zip(questions, options_by_question, strict=True)
        )
    )


def keep_promise(result: DecisionResult, error: float, confidence: float) -> Promise:
    """Return what can be promised of a question at this error, by the rows that the result has kept."""
    confidences, right = zip(*result.held_rows, strict=True)
    threshold = choose_threshold(confidences, right, error=error, confidence=confidence)
    return _test_promise(threshold, result.test_rows)


def _select_question(rows: LabelledScores, options: Sequence[int], count: int) -> LabelledScores:
    return LabelledScores(sum_options(rows.scores, options, count), [options[label] for label in rows.truth])


def _measure_question(
    question: Question,
    held: LabelledScores,
    test: LabelledScores,
    abstain: AbstainSpec | None,
    *,
    resamples: int,
    seed: int,
) -> DecisionResult:
    calibrator, held_rows = calibrate(held)
    plain = Calibrator(rows=0).apply(test.scores)
    calibrated = calibrator.apply(test.scores)
    before, after = (
        _measure_figures(question, probabilities, test.truth, resamples=resamples, seed=seed)
        for probabilities in (plain, calibrated)
    )
    test_rows = _rate_rows(calibrated, test.truth)
    promise = None
    if abstain is not None:
        confidences, right = zip(*held_rows, strict=True)
        threshold = choose_threshold(confidences, right, error=abstain.error, confidence=abstain.confidence)
        promise = _test_promise(threshold, test_rows)
    return DecisionResult(
        rule=DecisionRule(
            question=question, calibrator=calibrator, promise=promise.threshold if promise is not None else None
        ),
        before=before,
        after=after,
        calibration_before=measure_calibration(plain, test.truth),
        calibration_after=measure_calibration(calibrated, test.truth),
        promise=promise,
        held_rows=tuple(held_rows),
        test_rows=tuple(test_rows),
    )


def calibrate(held: LabelledScores) -> tuple[Calibrator, list[tuple[float, float]]]:
    """Fit a calibrator, and return the rows on which a threshold may be chosen: (confidence, 1 where right else 0)."""
    if len(held.truth) < SPLIT_ROWS:
        fitted = fit_calibrator(held.scores, held.truth)
        return fitted.calibrator, _rate_rows(fitted.cross_fitted, held.truth)
    halves: list[LabelledScores] = []
    parts = assign_parts(len(held.truth), 2)
    for number in range(2):
        rows = [row for row, part in enumerate(parts) if part == number]
        halves.append(LabelledScores([held.scores[row] for row in rows], [held.truth[row] for row in rows]))
    calibrator = fit_calibrator(halves[0].scores, halves[0].truth).calibrator
    return calibrator, _rate_rows(calibrator.apply(halves[1].scores), halves[1].truth)


def _rate_rows(probabilities: Sequence[Sequence[float]], truth: Sequence[int]) -> list[tuple[float, float]]:
    """Return the confidence of each row, and 1 where its likeliest answer is right, else 0."""
    return [
        (confidence := max(row), float(row.index(confidence) == true))
        for row, true in zip(probabilities, truth, strict=True)
    ]


def _measure_figures(
    question: Question, probabilities: list[list[float]], truth: Sequence[int], *, resamples: int, seed: int
) -> tuple[MetricValue, ...]:
    rated = _rate_rows(probabilities, truth)
    metrics = list(_FIGURES)
    scores: dict[str, Sequence[float]] = {
        scoring.CONFIDENCE: [confidence for confidence, _ in rated],
        scoring.LIKELIEST_RIGHT: [right for _, right in rated],
        "brier": brier_scores(probabilities, truth),
        "log_loss": log_losses(probabilities, truth),
    }
    if question.kind == "score":
        metrics.append(_SCORE_ERROR)
        scores[_SCORE_ERROR.name] = [
            abs((question.compute_score(row) or 0.0) - float(question.values[true]))
            for row, true in zip(probabilities, truth, strict=True)
        ]
    data = RowData(
        labels=len(question.options),
        truth=truth,
        predicted=[row.index(max(row)) for row in probabilities],
        scores=scores,
    )
    values = [scoring.measure(metric, data, resamples=resamples, seed=seed) for metric in metrics]
    return tuple(value for value in values if value is not None)


def _test_promise(threshold: Threshold, test_rows: Sequence[tuple[float, float]]) -> Promise:
    """Return how many test rows a threshold answers, and how many of these answers are wrong."""
    if threshold.value is None:
        return Promise(threshold=threshold)
    answered = [right for confidence, right in test_rows if confidence >= threshold.value]
    return Promise(
        threshold=threshold,
        coverage=len(answered) / len(test_rows),
        interval=wilson(len(answered), len(test_rows)),
        answered=len(answered),
        wrong=round(sum(1 - right for right in answered)),
    )
