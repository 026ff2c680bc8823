"""The answers of one system to some rows, and the scores of each row."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from llmtune._retry import RetryPolicy, with_retries
from llmtune.data.example import Example, Message, ToolCall
from llmtune.data.hashing import turn_text
from llmtune.evaluation import scoring
from llmtune.evaluation.cache import AnswerCache, answer_key
from llmtune.evaluation.inference import ASKING, Answer, generate_answers, score_labels
from llmtune.evaluation.results import Usage
from llmtune.evaluation.sampling import build_requests, expected_text
from llmtune.evaluation.scoring import RowData
from llmtune.evaluation.task import Part, Questions
from llmtune.metrics.calibration import brier_scores, log_losses, to_probabilities
from llmtune.metrics.points import NotReported, TokenStats
from llmtune.provider.generation import Generation, Generator, LabelScorer, TokenScorer


@dataclass(frozen=True)
class ModelAccess:
    """How one system is asked: identity of its model for the cache, the cache, retries, and progress."""

    model: str | None
    cache: AnswerCache | None
    patience: RetryPolicy
    progress: Callable[[int, int], None]

    def load(self, key: str) -> dict[str, Any] | None:
        """Return the cached value of a key, or None."""
        return self.cache.get(key) if self.cache is not None and self.model is not None else None

    def store(self, key: str, value: dict[str, Any]) -> None:
        """Store a value in the cache."""
        if self.cache is not None and self.model is not None:
            self.cache.put(key, value)


@dataclass
class Predictions:
    """The answers of one system to the rows of one part, and the scores of each row."""

    part: Part
    labels: tuple[str, ...] | None
    got: list[str | None] = field(default_factory=list)
    """Answer texts; empty when only the loss was measured."""

    answers: list[Answer] = field(default_factory=list)
    """Generated answers; empty when labels were scored by likelihood."""

    likelihoods: list[list[float]] = field(default_factory=list)
    predicted: list[int] | None = None
    token_rows: list[tuple[float, int, int]] | None = None
    probabilities: list[list[float]] | None = None
    """Of each label, for each row; None where the system reports none."""

    label_scores: list[list[float]] | None = None
    """The log-likelihoods that they were computed from."""

    scores: dict[str, list[float]] = field(default_factory=dict)
    not_reported: dict[str, str] = field(default_factory=dict)
    asked: int = 0
    cached: int = 0

    @property
    def data(self) -> RowData:
        """The columns that metrics are computed from."""
        return RowData(
            labels=len(self.labels or ()),
            truth=self.part.truth,
            predicted=self.predicted,
            token_rows=self.token_rows,
            scores=dict(self.scores),
        )


def answer_questions(questions: Questions, part: Part, generator: Generator, access: ModelAccess) -> Predictions:
    """Ask a system the rows of a part, and score them.

    Raises:
        TransientError: the backend stayed unavailable; its answers so far are in the cache.
        VendorError: the backend refuses to answer.
    """
    predictions = Predictions(part=part, labels=questions.labels)
    passes: list[Callable[[ModelAccess], None]] = []
    if questions.scored_by == "likelihood" and isinstance(generator, LabelScorer):
        passes.append(partial(_answer_by_likelihood, predictions, questions, generator))
    elif questions.scored_by == "text":
        passes.append(partial(_answer_by_text, predictions, questions, generator))
        by_likelihood = questions.measures(scoring.LIKELIHOOD_ACCURACY) or questions.wants_probabilities
        if by_likelihood and isinstance(generator, LabelScorer):
            passes.append(partial(_score_likeliest_labels, predictions, questions, generator))
    if questions.wants_loss and isinstance(generator, TokenScorer):
        passes.append(partial(_measure_losses, predictions, generator))
    for number, run_pass in enumerate(passes):
        run_pass(replace(access, progress=_share_progress(access.progress, number, len(passes))))
    if questions.scored_by != "loss":
        score_texts(predictions, questions)
    return predictions


def _share_progress(progress: Callable[[int, int], None], number: int, passes: int) -> Callable[[int, int], None]:
    """Return the progress of one of several passes over the rows: a row is done when all have been over it."""
    return lambda done, total: progress((number * total + done) // passes, total)


def _answer_by_likelihood(
    predictions: Predictions, questions: Questions, generator: LabelScorer, access: ModelAccess
) -> None:
    rows = predictions.part.rows
    labels = questions.labels
    choices: list[Sequence[str]] = [_answer_pair(row) if labels is None else labels for row in rows]
    scores, predictions.cached = _likelihoods(predictions.part, questions, choices, generator, access)
    predictions.asked = len(rows) - predictions.cached
    predictions.likelihoods = scores
    best = [max(range(len(row)), key=row.__getitem__) for row in scores]
    predictions.got = [choice[index] for choice, index in zip(choices, best, strict=True)]
    if labels is None:
        predictions.scores["preference_accuracy"] = [float(row[0] > row[1]) for row in scores]
    else:
        predictions.predicted = best
        if questions.wants_probabilities:
            add_probabilities(predictions, [to_probabilities(row) for row in scores], scores)


def score_part(questions: Questions, part: Part, generator: Generator, access: ModelAccess) -> list[list[float]] | None:
    """Return the log-likelihood of every label for each row of a part; None where the system does not tell.

    Raises:
        TransientError: the backend stayed unavailable; its answers so far are in the cache.
        VendorError: the backend refuses to answer.
    """
    if questions.labels is None or not questions.wants_probabilities or not isinstance(generator, LabelScorer):
        return None
    rows, _ = _likelihoods(part, questions, [questions.labels] * len(part.rows), generator, access)
    return rows


def _likelihoods(
    part: Part, questions: Questions, choices: Sequence[Sequence[str]], generator: LabelScorer, access: ModelAccess
) -> tuple[list[list[float]], int]:
    return score_labels(
        generator,
        build_requests(part.rows, questions.spec, max_tokens=questions.max_tokens, seed=questions.seed),
        choices,
        model=access.model,
        cache=access.cache,
        patience=access.patience,
        progress=access.progress,
    )


def _score_likeliest_labels(
    predictions: Predictions, questions: Questions, generator: LabelScorer, access: ModelAccess
) -> None:
    """Score the probabilities of the labels, in addition to the generated answer."""
    labels, truth = questions.labels, predictions.part.truth
    if (
        labels is None or truth is None or predictions.part.name != "test"
    ):  # the fit is measured by the generated answers
        return
    rows, _ = _likelihoods(predictions.part, questions, [labels] * len(predictions.part.rows), generator, access)
    likeliest = [max(range(len(row)), key=row.__getitem__) for row in rows]
    if questions.measures(scoring.LIKELIHOOD_ACCURACY):
        predictions.scores[scoring.LIKELIHOOD_ACCURACY] = [float(a == b) for a, b in zip(likeliest, truth, strict=True)]
    if questions.wants_probabilities:
        add_probabilities(predictions, [to_probabilities(row) for row in rows], rows)


def add_probabilities(
    predictions: Predictions, probabilities: list[list[float]], label_scores: list[list[float]]
) -> None:
    """Score the probabilities of all labels, row by row, where the true labels are known.

    `label_scores` are the log-likelihoods that they were computed from.
    """
    truth = predictions.part.truth
    if truth is None:
        return
    predictions.probabilities, predictions.label_scores = probabilities, label_scores
    likeliest = [max(range(len(row)), key=row.__getitem__) for row in probabilities]
    predictions.scores |= {
        scoring.CONFIDENCE: [max(row) for row in probabilities],
        scoring.LIKELIEST_RIGHT: [float(a == b) for a, b in zip(likeliest, truth, strict=True)],
        "brier": brier_scores(probabilities, truth),
        "log_loss": log_losses(probabilities, truth),
    }


def add_implicit_rewards(predictions: Predictions, base: Predictions) -> None:
    """Score preferences by the change in likelihood that tuning made, where both models report likelihoods.

    Likelihoods of whole answers favour short ones: a model that has learned every preference may still find a short
    rejected answer likelier. The difference to the base model, DPO's implicit reward, does not have this bias.
    """
    rows = predictions.part.rows
    if predictions.labels is not None or not (predictions.likelihoods and base.likelihoods):
        return
    gains = [
        [now - before for now, before in zip(*pair, strict=True)]
        for pair in zip(predictions.likelihoods, base.likelihoods, strict=True)
    ]
    predictions.scores["reward_accuracy"] = [float(preferred > rejected) for preferred, rejected in gains]
    predictions.got = [_answer_pair(row)[int(gain[1] >= gain[0])] for row, gain in zip(rows, gains, strict=True)]


def _answer_by_text(predictions: Predictions, questions: Questions, generator: Generator, access: ModelAccess) -> None:
    rows = predictions.part.rows
    predictions.answers = generate_answers(
        generator,
        build_requests(rows, questions.spec, max_tokens=questions.max_tokens, seed=questions.seed),
        model=access.model,
        cache=access.cache,
        patience=access.patience,
        progress=access.progress,
    )
    predictions.got = [
        None if answer.generation is None else _format_generation(answer.generation) for answer in predictions.answers
    ]
    predictions.cached = sum(answer.cached for answer in predictions.answers)
    predictions.asked = len(rows) - predictions.cached
    labels, rule = questions.labels, questions.rule
    if labels is not None and rule is not None:
        read = rule.reader(labels)
        label_indices: dict[str | None, int] = {label: index for index, label in enumerate(labels)}
        predictions.predicted = [label_indices.get(read(text), len(labels)) for text in predictions.got]
    if questions.sets is not None:
        both = [(set(row.label or ()), set(labels_in(text))) for row, text in zip(rows, predictions.got, strict=True)]
        predictions.scores["subset_accuracy"] = [float(true == answered) for true, answered in both]
        predictions.scores["samples_f1"] = [
            2 * len(true & answered) / (len(true) + len(answered)) if true or answered else 1.0
            for true, answered in both
        ]
    if questions.measures("tool_call_match"):
        predictions.scores["tool_call_match"] = [
            _match_calls(row, answer) for row, answer in zip(rows, predictions.answers, strict=True)
        ]


def _format_generation(generation: Generation) -> str:
    """Return an answer as text, with its tool calls in the notation that is used for those of rows."""
    if not generation.tool_calls:
        return generation.text
    calls = tuple(
        ToolCall("", name, arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False))
        for name, arguments in normalise_calls(generation.tool_calls)
    )
    return turn_text(Message("assistant", generation.text or None, calls))


def labels_in(text: str | None) -> list[str]:
    """Return the labels in an answer, which separates them by commas."""
    return [name for part in (text or "").split(",") if (name := part.strip())]


def score_texts(predictions: Predictions, questions: Questions) -> None:
    """Score the answer text of each row by every requested text metric."""
    expected = [expected_text(row) for row in predictions.part.rows]
    for metric in questions.metrics:
        if metric.score is not None:
            column, why = scoring.score_text(metric.score, expected, predictions.got)
            if column is None:
                predictions.not_reported[metric.name] = why or "it could not be computed"
            else:
                predictions.scores[metric.name] = column


def _measure_losses(predictions: Predictions, generator: TokenScorer, access: ModelAccess) -> None:
    """Measure the loss row by row, so that it has an interval and worst rows like any other metric."""
    token_rows: list[tuple[float, int, int]] = []
    for number, row in enumerate(predictions.part.rows):
        access.progress(number, len(predictions.part.rows))
        key = answer_key(
            access.model or "", "loss", None, turns=_scored_turns(row), tools=list(row.tools), text=row.text or ""
        )
        stored = access.load(key)
        stats = (
            TokenStats(**stored)
            if stored is not None
            else with_retries(partial(generator.token_stats, [row]), access.patience, doing=ASKING)
        )
        if stored is None:
            access.store(key, {"loss_sum": stats.loss_sum, "tokens": stats.tokens, "correct": stats.correct})
        token_rows.append((stats.loss_sum, stats.tokens, stats.correct))
    access.progress(len(token_rows), len(token_rows))
    empty = sum(not tokens for _, tokens, _ in token_rows)
    if empty:
        why = f"{empty} of {len(token_rows)} rows have no token to score (no answer, or cut before it)"
        predictions.not_reported |= dict.fromkeys(scoring.TOKEN_METRICS, why)
    else:
        predictions.token_rows = token_rows


def _scored_turns(row: Example) -> list[Any]:
    return list(row.messages if row.preference is None else (*row.messages, *row.preference.preferred))


def _answer_pair(row: Example) -> tuple[str, str]:
    if row.preference is None:
        return row.completion(), ""
    preferred, rejected = (
        "\n".join(turn.words for turn in turns if turn.role == "assistant")
        for turns in (row.preference.preferred, row.preference.rejected)
    )
    return preferred, rejected


def _match_calls(row: Example, answer: Answer) -> float:
    expected = row.answer()
    if expected is None or answer.generation is None:
        return 0.0
    return float(normalise_calls(expected.tool_calls) == normalise_calls(answer.generation.tool_calls))


def normalise_calls(calls: Sequence[Any]) -> list[tuple[str, Any]]:
    """Return tool calls as (name, arguments), with arguments that are JSON as data."""
    plain: list[tuple[str, Any]] = []
    for call in calls:
        fields = call if isinstance(call, dict) else {"name": call.name, "arguments": call.arguments}
        arguments = fields.get("arguments", "")
        try:
            plain.append((str(fields.get("name")), json.loads(arguments)))
        except (TypeError, ValueError):
            plain.append((str(fields.get("name")), arguments))
    return plain


def sum_usage(predictions: Predictions) -> Usage:
    """Return the tokens of all questions and answers, as the backend counts them."""
    generations = [answer.generation for answer in predictions.answers if answer.generation is not None]

    def total(counts: list[int | None]) -> int | NotReported:
        counted = [count for count in counts if count is not None]
        if not counts:
            return NotReported("nothing was generated")
        return sum(counted) if len(counted) == len(counts) else NotReported("the backend does not count tokens")

    return Usage(
        prompt_tokens=total([generation.prompt_tokens for generation in generations]),
        completion_tokens=total([generation.completion_tokens for generation in generations]),
        asked=predictions.asked,
        cached=predictions.cached,
    )
