"""One system answers some rows, and each row gets its scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from llmtune._retry import RetryPolicy, with_retries
from llmtune.data.example import Example, Message, ToolCall
from llmtune.data.hashing import turn_text
from llmtune.evaluation import scoring
from llmtune.evaluation.cache import AnswerCache, answer_key
from llmtune.evaluation.inference import ASKING, Answer, ask, score_labels
from llmtune.evaluation.sampling import expected_text, requests_of
from llmtune.evaluation.scoring import RowData
from llmtune.evaluation.task import Part, Questions
from llmtune.metrics.points import TokenStats
from llmtune.metrics.text import TextMetric
from llmtune.provider.generation import Generation, Generator, LabelScorer, TokenScorer


@dataclass(frozen=True)
class Access:
    """How one system is asked: which model that is (for the cache), where answers are kept, and how patiently."""

    model: str | None
    cache: AnswerCache | None
    patience: RetryPolicy
    progress: Callable[[int, int], None]

    def kept(self, key: str) -> dict[str, Any] | None:
        """What the cache holds under a key."""
        return self.cache.get(key) if self.cache is not None and self.model is not None else None

    def keep(self, key: str, value: dict[str, Any]) -> None:
        """Put a value into the cache."""
        if self.cache is not None and self.model is not None:
            self.cache.put(key, value)


@dataclass
class Answered:
    """A system's answers to the rows of one part, and the scores of each row."""

    part: Part
    labels: tuple[str, ...] | None
    got: list[str | None] = field(default_factory=list)
    """Answer texts; empty when nothing but the loss was asked."""

    answers: list[Answer] = field(default_factory=list)
    """What was generated; empty when labels were scored by likelihood."""

    likelihoods: list[list[float]] = field(default_factory=list)
    predicted: list[int] | None = None
    token_rows: list[tuple[float, int, int]] | None = None
    scores: dict[str, list[float]] = field(default_factory=dict)
    not_reported: dict[str, str] = field(default_factory=dict)
    asked: int = 0
    cached: int = 0

    @property
    def data(self) -> RowData:
        """What metrics are computed from."""
        return RowData(
            labels=len(self.labels or ()),
            truth=self.part.truth,
            predicted=self.predicted,
            token_rows=self.token_rows,
            scores=dict(self.scores),
        )


def answer(questions: Questions, part: Part, generator: Generator, access: Access) -> Answered:
    """Ask a system the rows of a part, and score them.

    Raises:
        TransientError: the backend stayed unwell; what it answered is in the cache.
        VendorError: it refuses to answer.
    """
    out = Answered(part=part, labels=questions.labels)
    if questions.scored_by == "likelihood" and isinstance(generator, LabelScorer):
        _by_likelihood(out, questions, generator, access)
    elif questions.scored_by == "text":
        _by_text(out, questions, generator, access)
        if scoring.LIKELIHOOD_ACCURACY in questions.metrics and isinstance(generator, LabelScorer):
            _likeliest(out, questions, generator, access)
    if questions.scored_by != "loss":
        score_texts(out, questions)
    if questions.wants_loss and isinstance(generator, TokenScorer):
        _losses(out, generator, access)
    return out


def _by_likelihood(out: Answered, questions: Questions, generator: LabelScorer, access: Access) -> None:
    rows = out.part.rows
    labels = questions.labels
    choices: list[Sequence[str]] = [_two_answers(row) if labels is None else labels for row in rows]
    scores, out.cached = _likelihoods(out.part, questions, choices, generator, access)
    out.asked = len(rows) - out.cached
    out.likelihoods = scores
    best = [max(range(len(row)), key=row.__getitem__) for row in scores]
    out.got = [choice[place] for choice, place in zip(choices, best, strict=True)]
    if labels is None:
        out.scores["preference_accuracy"] = [float(row[0] > row[1]) for row in scores]
    else:
        out.predicted = best


def _likelihoods(
    part: Part, questions: Questions, choices: Sequence[Sequence[str]], generator: LabelScorer, access: Access
) -> tuple[list[list[float]], int]:
    return score_labels(
        generator,
        requests_of(part.rows, questions.spec, max_tokens=questions.max_tokens, seed=questions.seed),
        choices,
        model=access.model,
        cache=access.cache,
        patience=access.patience,
        progress=access.progress,
    )


def _likeliest(out: Answered, questions: Questions, generator: LabelScorer, access: Access) -> None:
    """Whether the likeliest of the labels is the row's own, beside what the model answered when it was asked."""
    labels, truth = questions.labels, out.part.truth
    if labels is None or truth is None or out.part.name != "test":  # the fit is judged by what is answered
        return
    rows, _ = _likelihoods(out.part, questions, [labels] * len(out.part.rows), generator, access)
    likeliest = [max(range(len(row)), key=row.__getitem__) for row in rows]
    out.scores[scoring.LIKELIHOOD_ACCURACY] = [float(a == b) for a, b in zip(likeliest, truth, strict=True)]


def against(out: Answered, base: Answered) -> None:
    """Judge a tuned model's preferences by what tuning changed, where both models tell likelihoods of the same pairs.

    Likelihoods of whole answers favour short ones, so that a model which learned every preference may still find a
    short rejected answer likelier; the change against the base model, DPO's implicit reward, does not.
    """
    rows = out.part.rows
    if out.labels is not None or not (out.likelihoods and base.likelihoods):
        return
    gains = [
        [now - before for now, before in zip(*pair, strict=True)]
        for pair in zip(out.likelihoods, base.likelihoods, strict=True)
    ]
    out.scores["reward_accuracy"] = [float(preferred > rejected) for preferred, rejected in gains]
    out.got = [_two_answers(row)[int(gain[1] >= gain[0])] for row, gain in zip(rows, gains, strict=True)]


def _by_text(out: Answered, questions: Questions, generator: Generator, access: Access) -> None:
    rows = out.part.rows
    out.answers = ask(
        generator,
        requests_of(rows, questions.spec, max_tokens=questions.max_tokens, seed=questions.seed),
        model=access.model,
        cache=access.cache,
        patience=access.patience,
        progress=access.progress,
    )
    out.got = [None if each.generation is None else _said(each.generation) for each in out.answers]
    out.cached = sum(each.cached for each in out.answers)
    out.asked = len(rows) - out.cached
    labels, rule = questions.labels, questions.rule
    if labels is not None and rule is not None:
        read = rule.reader(labels)
        places: dict[str | None, int] = {label: index for index, label in enumerate(labels)}
        out.predicted = [places.get(read(text), len(labels)) for text in out.got]
    if questions.sets is not None:
        both = [(set(row.label or ()), set(labels_in(text))) for row, text in zip(rows, out.got, strict=True)]
        out.scores["subset_accuracy"] = [float(true == said) for true, said in both]
        out.scores["samples_f1"] = [
            2 * len(true & said) / (len(true) + len(said)) if true or said else 1.0 for true, said in both
        ]
    if "tool_call_match" in questions.metrics:
        out.scores["tool_call_match"] = [_same_calls(row, each) for row, each in zip(rows, out.answers, strict=True)]


def _said(generation: Generation) -> str:
    """An answer as it is compared and shown: its text, or with its calls as rows show theirs."""
    if not generation.tool_calls:
        return generation.text
    calls = tuple(
        ToolCall("", name, given if isinstance(given, str) else json.dumps(given, ensure_ascii=False))
        for name, given in _plain_calls(generation.tool_calls)
    )
    return turn_text(Message("assistant", generation.text or None, calls))


def labels_in(text: str | None) -> list[str]:
    """The labels that an answer names, separated by commas."""
    return [name for part in (text or "").split(",") if (name := part.strip())]


def score_texts(out: Answered, questions: Questions) -> None:
    """Score the answer texts of each row by every text metric that is wanted."""
    expected = [expected_text(row) for row in out.part.rows]
    for metric in questions.metrics:
        if isinstance(metric, TextMetric):
            column, why = scoring.score_text(metric, expected, out.got)
            if column is None:
                out.not_reported[metric.name] = why or "it could not be computed"
            else:
                out.scores[metric.name] = column


def _losses(out: Answered, generator: TokenScorer, access: Access) -> None:
    """Loss row by row, so that it has an interval and its worst rows like every other metric."""
    found: list[tuple[float, int, int]] = []
    for row in out.part.rows:
        key = answer_key(
            access.model or "", "loss", None, turns=_turns(row), tools=list(row.tools), text=row.text or ""
        )
        kept = access.kept(key)
        stats = (
            TokenStats(**kept)
            if kept is not None
            else with_retries(partial(generator.token_stats, [row]), access.patience, doing=ASKING)
        )
        if kept is None:
            access.keep(key, {"loss_sum": stats.loss_sum, "tokens": stats.tokens, "correct": stats.correct})
        found.append((stats.loss_sum, stats.tokens, stats.correct))
    empty = sum(not tokens for _, tokens, _ in found)
    if empty:
        why = f"{empty} of {len(found)} rows have no token to score (no answer, or cut before it)"
        out.not_reported |= dict.fromkeys(scoring.TOKEN_METRICS, why)
    else:
        out.token_rows = found


def _turns(row: Example) -> list[Any]:
    return list(row.messages if row.preference is None else (*row.messages, *row.preference.preferred))


def _two_answers(row: Example) -> tuple[str, str]:
    if row.preference is None:
        return row.completion(), ""
    preferred, rejected = (
        "\n".join(turn.words for turn in turns if turn.role == "assistant")
        for turns in (row.preference.preferred, row.preference.rejected)
    )
    return preferred, rejected


def _same_calls(row: Example, answer: Answer) -> float:
    expected = row.answer()
    if expected is None or answer.generation is None:
        return 0.0
    return float(_plain_calls(expected.tool_calls) == _plain_calls(answer.generation.tool_calls))


def _plain_calls(calls: Sequence[Any]) -> list[tuple[str, Any]]:
    plain: list[tuple[str, Any]] = []
    for call in calls:
        given = call if isinstance(call, dict) else {"name": call.name, "arguments": call.arguments}
        arguments = given.get("arguments", "")
        try:
            plain.append((str(given.get("name")), json.loads(arguments)))
        except (TypeError, ValueError):
            plain.append((str(given.get("name")), arguments))
    return plain
