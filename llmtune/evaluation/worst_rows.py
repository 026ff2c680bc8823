"""The rows with the worst answers: the most confident mistakes, the lowest scores, the highest training losses."""

from __future__ import annotations

from llmtune.evaluation.predictions import Predictions
from llmtune.evaluation.results import WorstRow
from llmtune.evaluation.sampling import clip, format_answer, format_prompt
from llmtune.evaluation.task import Questions
from llmtune.metrics.calibration import to_probabilities

#: Rows per system in a report.
LISTED = 20


def worst_rows(predictions: Predictions, questions: Questions) -> list[WorstRow]:
    """Return the rows that are wrong by the first metric, the worst first."""
    mistakes = [
        (mistake, index)
        for index in range(len(predictions.part.rows))
        if (mistake := _score_mistake(predictions, questions, index))
    ]
    mistakes.sort(key=lambda entry: (-entry[0][0], entry[1]))
    return [_build_row(predictions, index, score, note) for (_, score, note), index in mistakes[:LISTED]]


def highest_loss_rows(predictions: Predictions) -> list[WorstRow]:
    """Return the rows of highest loss; none where the backend has no logits."""
    if predictions.token_rows is None:
        return []
    losses = [total / tokens for total, tokens, _ in predictions.token_rows]
    order = sorted(range(len(losses)), key=lambda index: (-losses[index], index))[:LISTED]
    return [_build_row(predictions, index, losses[index], f"loss {losses[index]:.3f} nats/token") for index in order]


def _score_mistake(predictions: Predictions, questions: Questions, index: int) -> tuple[float, float, str] | None:
    """Return (badness, score, note) of a row; None for one that is right."""
    refused = predictions.answers[index].refused if predictions.answers else None
    note = f"refused: {refused}" if refused else ""
    if predictions.predicted is not None and predictions.part.truth is not None:
        predicted, true = predictions.predicted[index], predictions.part.truth[index]
        if predicted == true:
            return None
        if predictions.likelihoods:
            chances = to_probabilities(predictions.likelihoods[index])
            sure = f"{chances[predicted]:.0%} sure; gave the right label {chances[true]:.0%}"
            return chances[predicted] - chances[true], 0.0, sure
        return 1.0, 0.0, note or ("outside the label set" if predicted == len(predictions.labels or ()) else "")
    metrics = questions.metrics
    first = next((metric for metric in metrics if metric.name in predictions.scores), metrics[0])
    column = predictions.scores.get(first.name)
    if column is not None:
        score = column[index]
        is_right = score >= 1 and first.unit == "share" if first.better == "higher" else score <= 0
        return None if is_right else (-score if first.better == "higher" else score, score, note)
    if predictions.token_rows is not None:
        total, tokens, _ = predictions.token_rows[index]
        return total / tokens, total / tokens, f"loss {total / tokens:.3f} nats/token"
    return None


def _build_row(predictions: Predictions, index: int, score: float, note: str) -> WorstRow:
    row = predictions.part.rows[index]
    got = predictions.got[index] if predictions.got else None
    return WorstRow(
        row=predictions.part.numbers[index] + 1,
        line=row.line,
        prompt=format_prompt(row),
        expected=format_answer(row),
        got=None if got is None else clip(got),
        score=score,
        note=note,
    )
