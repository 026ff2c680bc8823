"""Ask base and tuned model the questions of a panel, and test whether the tuned model is worse by more than a margin.

Both are asked the same questions in the same way, so that they are compared question by question. Two figures are
tested: the share of answers that keep the rules and, where a backend tells likelihoods, the mean log-likelihood of the
reference answers. Losses too small to change an answer show in the second one alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from llmtune.errors import LlmtuneError, MissingExtra, StoreUnavailable, TransientError
from llmtune.evaluation.inference import Answer, Progress, score_labels
from llmtune.evaluation.panel.panel import Panel, PanelQuestion
from llmtune.evaluation.panel.rules import PanelAnswer
from llmtune.evaluation.predictions import ModelAccess, Predictions, answer_questions, normalise_calls, sum_usage
from llmtune.evaluation.results import (
    MetricValue,
    PanelLoss,
    PanelResult,
    PanelSkill,
    PanelSystem,
    PanelTest,
    PanelVerdict,
    Usage,
)
from llmtune.evaluation.sampling import build_requests, clip, format_prompt, token_limit
from llmtune.evaluation.task import Part, Questions
from llmtune.job.spec import EvaluationSpec
from llmtune.metrics.comparison import Comparison, compare_means, compare_statistics
from llmtune.metrics.intervals import RESAMPLES, Resampling, bootstrap, interval_of_mean, ratio_of
from llmtune.metrics.points import NotReported
from llmtune.metrics.registry import METRICS
from llmtune.provider.generation import Generation, Generator, LabelScorer, TokenScorer, Unavailable

#: How much worse the tuned model may be: a share of the questions, and nats per token of the reference answers.
ACCURACY_MARGIN: Final = 0.05
LIKELIHOOD_MARGIN: Final = 0.1

#: Units of the two figures, by which they are shown.
UNITS: Final = {"accuracy": "share", "log_likelihood": "nats/token"}

#: Lost questions that a report shows, and of one skill.
_LOST_LISTED, _LOST_PER_SKILL = 18, 3

_NO_LIKELIHOODS = "the backend reports no likelihoods of tokens"

#: Questions whose answer is the likeliest of some choices.
_CHOICES = "questions with choices"
_NO_CHOICES = "the backend reports no likelihoods of given answers, by which choices are made"


@dataclass
class PanelRun:
    """A panel while it is asked: the questions, how they are asked, and the answers so far."""

    panel: Panel
    spec: EvaluationSpec
    """The job's settings of answers; the limit of tokens is the panel's own where that is higher."""

    seed: int = 0
    base: Generator | Unavailable | None = None
    """The base model where the test rows are not asked of it; None where they are."""

    _answers: dict[str, _Answers | NotReported] = field(default_factory=dict)

    def ask(self, name: str, generator: Generator, access: ModelAccess) -> None:
        """Ask a model. What it cannot be asked becomes the reason for that.

        Raises:
            TransientError: the backend stayed unavailable; its answers so far are in the cache.
        """
        answers = _Answers()
        rows = self.panel.rows
        done = 0
        for kind, numbers in _group_questions(self.panel.questions).items():
            part = Part(f"panel {kind}", [rows[number] for number in numbers], numbers, None)
            shifted = replace(access, progress=_shift_progress(access.progress, done, len(rows)))
            try:
                if kind == _CHOICES:
                    self._score_choices(answers, part, generator, shifted)
                else:
                    answers.add(part, answer_questions(self._build_task(), part, generator, shifted))
            except (TransientError, MissingExtra, StoreUnavailable):
                raise
            except LlmtuneError as error:
                from llmtune.redaction.secrets import scrub

                answers.left_out[kind] = scrub(error.message)
            done += len(numbers)
        access.progress(len(rows), len(rows))
        if answers.answers:
            answers.scores_tokens = isinstance(generator, TokenScorer)
            self._answers[name] = answers
        else:
            self._answers[name] = NotReported(next(iter(answers.left_out.values())))

    def _score_choices(self, answers: _Answers, part: Part, generator: Generator, access: ModelAccess) -> None:
        """Take the likeliest of each question's choices as the answer."""
        if not isinstance(generator, LabelScorer):
            raise LlmtuneError(_NO_CHOICES)
        task = replace(self._build_task(), scored_by="loss")
        choices = [self.panel.questions[number].choices for number in part.numbers]
        scores, cached = score_labels(
            generator,
            build_requests(part.rows, self.spec, max_tokens=task.max_tokens, seed=self.seed),
            choices,
            model=access.model,
            cache=access.cache,
            patience=access.patience,
            progress=access.progress,
        )
        losses = answer_questions(task, part, generator, replace(access, progress=lambda *_: None))
        answers.add_choices(part, choices, scores, losses)
        answers.usages.append(_count_usage(asked=len(scores) - cached, cached=cached))

    def leave_out(self, name: str, reason: str) -> None:
        """Note why a model is not asked, unless it has been."""
        self._answers.setdefault(name, NotReported(reason))

    def _build_task(self) -> Questions:
        limit = token_limit(self.panel.rows, self.spec.model_copy(update={"max_tokens": None}))
        return Questions(
            spec=self.spec,
            metrics=(METRICS["loss"],),
            scored_by="text",
            labels=None,
            rule=None,
            max_tokens=max(limit, self.panel.max_tokens or 0, self.spec.max_tokens or 0),
            seed=self.seed,
        )

    def build_result(self, *, resamples: int = RESAMPLES) -> PanelResult:
        """Return the figures of both models, and the tests."""
        questions = self.panel.questions
        answered = {name: answers for name, answers in self._answers.items() if isinstance(answers, _Answers)}
        common = [number for number in range(len(questions)) if all(number in a.answers for a in answered.values())]
        right = {
            name: {number: questions[number].is_right(answers.view(number)) for number in common}
            for name, answers in answered.items()
        }
        systems: dict[str, PanelSystem | NotReported] = {
            name: answers
            if isinstance(answers, NotReported)
            else NotReported("no question was asked of both models")
            if not common
            else _build_system(
                name, answers, right[name], len(questions), Resampling(resamples=resamples, seed=self.seed)
            )
            for name, answers in self._answers.items()
        }
        left_out: dict[str, str] = {}
        for answers in answered.values():
            left_out |= answers.left_out
        result = PanelResult(
            name=self.panel.name,
            sha256=self.panel.sha256,
            questions=len(common),
            ids=tuple(question.id for question in questions),
            left_out=left_out,
            systems=systems,
        )
        base, tuned = (result.system(name) for name in ("base", "tuned"))
        if base is None or tuned is None or not common:
            return result
        lost = [number for number in common if right["base"][number] and not right["tuned"][number]]
        return result.model_copy(
            update={
                "tests": tuple(_test_systems(base, tuned, Resampling(resamples=resamples, seed=self.seed))),
                "skills": tuple(self._sum_skills(common, right)),
                "lost": tuple(self._list_lost(lost, answered)),
                "lost_in_all": len(lost),
                "gained_in_all": sum(right["tuned"][number] and not right["base"][number] for number in common),
            }
        )

    def _sum_skills(self, common: Sequence[int], right: Mapping[str, Mapping[int, bool]]) -> list[PanelSkill]:
        by_skill: dict[str, list[int]] = {}
        for number in common:
            by_skill.setdefault(self.panel.questions[number].skill, []).append(number)
        return [
            PanelSkill(
                skill=skill,
                questions=len(numbers),
                base=sum(right["base"][number] for number in numbers) / len(numbers),
                tuned=sum(right["tuned"][number] for number in numbers) / len(numbers),
            )
            for skill, numbers in by_skill.items()
        ]

    def _list_lost(self, lost: Sequence[int], answered: Mapping[str, _Answers]) -> list[PanelLoss]:
        listed: list[PanelLoss] = []
        per_skill: Counter[str] = Counter()
        for number in lost:
            question = self.panel.questions[number]
            per_skill[question.skill] += 1
            if per_skill[question.skill] > _LOST_PER_SKILL or len(listed) == _LOST_LISTED:
                continue
            listed.append(
                PanelLoss(
                    id=question.id,
                    skill=question.skill,
                    prompt=format_prompt(question.row),
                    before=clip(answered["base"].texts[number]),
                    after=clip(answered["tuned"].texts[number]),
                )
            )
        return listed


def _shift_progress(progress: Progress, before: int, total: int) -> Progress:
    """Return the progress of some of the questions, after so many others."""
    return lambda done, _: progress(before + done, total)


@dataclass
class _Answers:
    """The answers of one model, by the number of the question."""

    answers: dict[int, Answer] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    """As they are shown, with their tool calls."""

    scores: dict[int, Sequence[float]] = field(default_factory=dict)
    """The log-likelihoods of a question's choices."""

    token_rows: dict[int, tuple[float, int]] = field(default_factory=dict)
    scores_tokens: bool = False
    left_out: dict[str, str] = field(default_factory=dict)
    usages: list[Usage] = field(default_factory=list)

    def add(self, part: Part, predictions: Predictions) -> None:
        """Add the answers to the questions of one kind."""
        for number, answer, text in zip(part.numbers, predictions.answers, predictions.got, strict=True):
            self.answers[number] = answer
            self.texts[number] = "(no answer)" if text is None else text
        self._add_token_rows(part, predictions)
        self.usages.append(sum_usage(predictions))

    def add_choices(
        self, part: Part, choices: Sequence[Sequence[str]], scores: Sequence[Sequence[float]], losses: Predictions
    ) -> None:
        """Add the likelihoods of the choices of questions that have some; the likeliest one is shown as the answer."""
        for number, texts, row in zip(part.numbers, choices, scores, strict=True):
            best = max(range(len(row)), key=row.__getitem__)
            self.scores[number] = row
            self.texts[number] = texts[best]
            self.answers[number] = Answer(Generation(text=texts[best], finish_reason="stop"))
        self._add_token_rows(part, losses)

    def _add_token_rows(self, part: Part, predictions: Predictions) -> None:
        for number, (loss, tokens, _) in zip(part.numbers, predictions.token_rows or (), strict=False):
            self.token_rows[number] = (-loss, tokens)

    def view(self, number: int) -> PanelAnswer:
        """Return an answer as the rules see it."""
        generation = self.answers[number].generation
        if generation is None:
            return PanelAnswer("")
        return PanelAnswer(
            generation.text,
            normalise_calls(generation.tool_calls),
            generation.finish_reason == "content_filter",
            self.scores.get(number, ()),
        )


def _group_questions(questions: Sequence[PanelQuestion]) -> dict[str, list[int]]:
    """Return the numbers of the questions by what a backend, or a model's template, must have for them."""
    groups: dict[str, list[int]] = {}
    for number, question in enumerate(questions):
        row = question.row
        if question.choices:
            kind = _CHOICES
        elif row.tools:
            kind = "questions with tools"
        elif any(turn.role == "system" for turn in row.messages):
            kind = "questions with a system prompt"
        else:
            kind = "plain questions"
        groups.setdefault(kind, []).append(number)
    return groups


def _build_system(
    name: str, answers: _Answers, right: Mapping[int, bool], questions: int, resampling: Resampling
) -> PanelSystem:
    values = [float(right[number]) for number in right]
    resamples, seed = resampling.resamples, resampling.seed
    token_rows = [answers.token_rows.get(number) if number in right else None for number in range(questions)]
    has_tokens = answers.scores_tokens and all(number in answers.token_rows for number in right)
    rows = [row for row in token_rows if row is not None]
    log_likelihood: MetricValue | NotReported = NotReported(
        "some reference answers have no token to score" if answers.scores_tokens else _NO_LIKELIHOODS
    )
    if has_tokens and rows:
        statistic = ratio_of([total for total, _ in rows], [tokens for _, tokens in rows])
        log_likelihood = MetricValue(
            name="log_likelihood",
            says="mean log-likelihood of the tokens of the panel's reference answers",
            value=sum(total for total, _ in rows) / sum(tokens for _, tokens in rows),
            interval=bootstrap(statistic, len(rows), resamples=resamples, seed=seed),
            rows=len(rows),
            unit=UNITS["log_likelihood"],
        )
    refused = sum(answers.answers[number].refused is not None for number in right)
    return PanelSystem(
        name=name,
        accuracy=MetricValue(
            name="accuracy",
            says="share of the panel's questions whose answer keeps every rule of the question",
            value=sum(values) / len(values) if values else math.nan,
            interval=interval_of_mean(values, resamples=resamples, seed=seed),
            rows=len(values),
            unit=UNITS["accuracy"],
        ),
        log_likelihood=log_likelihood,
        right=tuple(int(right[number]) if number in right else None for number in range(questions)),
        token_rows=tuple(token_rows) if has_tokens else None,
        failed=refused,
        usage=_add_usages(answers.usages),
    )


def _count_usage(*, asked: int, cached: int) -> Usage:
    none = NotReported("nothing was generated")
    return Usage(prompt_tokens=none, completion_tokens=none, asked=asked, cached=cached)


def _add_usages(usages: Sequence[Usage]) -> Usage:
    def total(counts: list[int | NotReported]) -> int | NotReported:
        numbers = [count for count in counts if not isinstance(count, NotReported)]
        return sum(numbers) if numbers else NotReported("the backend does not count tokens")

    return Usage(
        prompt_tokens=total([usage.prompt_tokens for usage in usages]),
        completion_tokens=total([usage.completion_tokens for usage in usages]),
        asked=sum(usage.asked for usage in usages),
        cached=sum(usage.cached for usage in usages),
    )


# --- tests -----------------------------------------------------------------------------------------------------------
def _test_systems(base: PanelSystem, tuned: PanelSystem, resampling: Resampling) -> list[PanelTest]:
    """Test both figures, at their usual margins."""
    pairs = [(a, b) for a, b in zip(base.right, tuned.right, strict=True) if a is not None and b is not None]
    accuracy = compare_means(
        [float(a) for a, _ in pairs],
        [float(b) for _, b in pairs],
        metric="accuracy",
        resamples=resampling.resamples,
        seed=resampling.seed,
    )
    tests = [build_test(accuracy, ACCURACY_MARGIN)]
    if base.token_rows is not None and tuned.token_rows is not None:
        rows = [
            (a, b) for a, b in zip(base.token_rows, tuned.token_rows, strict=True) if a is not None and b is not None
        ]
        before, after = (ratio_of([row[side][0] for row in rows], [row[side][1] for row in rows]) for side in range(2))
        comparison = compare_statistics(before, after, len(rows), metric="log_likelihood", resampling=resampling)
        tests.append(build_test(comparison, LIKELIHOOD_MARGIN))
    return tests


def build_test(comparison: Comparison, margin: float) -> PanelTest:
    """Return the test of a comparison at a margin, in the figure's own unit."""
    return PanelTest(
        comparison=comparison,
        unit=UNITS[comparison.metric],
        margin=margin,
        verdict=judge_loss(comparison, margin),
    )


def judge_loss(comparison: Comparison, margin: float) -> PanelVerdict:
    """Return whether the second system is worse than the first by more than a margin, by the interval."""
    if math.isfinite(comparison.a) and not math.isfinite(comparison.b):
        return "worse"  # a model whose likelihoods are no numbers has diverged
    if comparison.interval.low >= -margin - 1e-12:
        return "not worse"
    return "worse" if comparison.interval.high < -margin - 1e-12 else "undecided"
