"""Which rows went wrong: the surest mistakes, the worst scores, the training rows that stayed hardest."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llmtune.evaluation import scoring
from llmtune.evaluation.predictions import Answered
from llmtune.evaluation.results import WorstRow
from llmtune.evaluation.sampling import clip, shown_answer, shown_prompt
from llmtune.evaluation.task import Questions, name_of

#: Rows that a report lists, for each system.
LISTED = 20


def worst_rows(out: Answered, questions: Questions) -> list[WorstRow]:
    """The rows that are not as they should be by the first metric, the worst first."""
    judged = [(found, index) for index in range(len(out.part.rows)) if (found := _judge(out, questions, index))]
    judged.sort(key=lambda entry: (-entry[0][0], entry[1]))
    return [_shown(out, index, score, note) for (_, score, note), index in judged[:LISTED]]


def hardest_rows(out: Answered) -> list[WorstRow]:
    """The rows of highest loss, where there is one."""
    if out.token_rows is None:
        return []
    losses = [total / tokens for total, tokens, _ in out.token_rows]
    order = sorted(range(len(losses)), key=lambda index: (-losses[index], index))[:LISTED]
    return [_shown(out, index, losses[index], f"loss {losses[index]:.3f} nats/token") for index in order]


def _judge(out: Answered, questions: Questions, index: int) -> tuple[float, float, str] | None:
    """(how bad, score, note) of a row; None for one that is as it should be."""
    refused = out.answers[index].refused if out.answers else None
    note = f"refused: {refused}" if refused else ""
    if out.predicted is not None and out.part.truth is not None:
        said, true = out.predicted[index], out.part.truth[index]
        if said == true:
            return None
        if out.likelihoods:
            chances = _chances(out.likelihoods[index])
            sure = f"{chances[said]:.0%} sure; gave the right label {chances[true]:.0%}"
            return chances[said] - chances[true], 0.0, sure
        return 1.0, 0.0, note or ("outside the label set" if said == len(out.labels or ()) else "")
    metrics = questions.metrics
    first = next((metric for metric in metrics if name_of(metric) in out.scores), metrics[0])
    column = out.scores.get(name_of(first))
    if column is not None:
        _, unit, better = scoring.describe(first)
        score = column[index]
        fine = score >= 1 and unit == "share" if better == "higher" else score <= 0
        return None if fine else (-score if better == "higher" else score, score, note)
    if out.token_rows is not None:
        total, tokens, _ = out.token_rows[index]
        return total / tokens, total / tokens, f"loss {total / tokens:.3f} nats/token"
    return None


def _chances(log_likelihoods: Sequence[float]) -> list[float]:
    """Log-likelihoods as shares of one."""
    highest = max(log_likelihoods)
    weights = [math.exp(value - highest) if math.isfinite(highest) else 1.0 for value in log_likelihoods]
    return [weight / sum(weights) for weight in weights]


def _shown(out: Answered, index: int, score: float, note: str) -> WorstRow:
    row = out.part.rows[index]
    got = out.got[index] if out.got else None
    return WorstRow(
        row=out.part.numbers[index] + 1,
        line=row.line,
        prompt=shown_prompt(row),
        expected=shown_answer(row),
        got=None if got is None else clip(got),
        score=score,
        note=note,
    )
