"""Evaluation of the new model against the old one: by the reference answers, and by the old model's own answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llmtune.data.example import Example
from llmtune.errors import LlmtuneError
from llmtune.evaluation.cache import AnswerCache
from llmtune.evaluation.evaluate import AnswerOptions, evaluate, model_identity
from llmtune.evaluation.results import EvaluationResult
from llmtune.evaluation.task import ScoringOptions
from llmtune.job.spec import EvaluationSpec
from llmtune.metrics.points import NotReported
from llmtune.provider.generation import Generation, Generator, Unavailable
from llmtune.provider.protocol import Provider
from llmtune.provider.types import ModelRef
from llmtune.redaction.secrets import scrub
from llmtune.rescues.golden_set import Questions, build_reference_rows, replay


def evaluate_answers(
    questions: Questions | None,
    answers: dict[str, Generation],
    labels: Sequence[str] | None,
    *,
    provider: Provider,
    target: Callable[[], Generator | Unavailable],
    tuned: ModelRef,
    cache: AnswerCache,
    why_not: str,
) -> tuple[EvaluationResult | NotReported, EvaluationResult | NotReported]:
    """Evaluate by the reference answers, and by the old model's answers. The new model's answers are cached.

    Args:
        questions: the golden set's questions, or None when there are no rows to ask.
        answers: the old model's, by key; empty when it could not be asked.
        labels: the label set of the dataset, if it has one.
        provider: where the new model is.
        target: opens the new model.
        tuned: the new model, for the cache.
        cache: where its answers are kept.
        why_not: why there is no golden set, when there is none.
    """
    if questions is None or not questions.rows:
        nothing = NotReported("there are no held-out rows to ask")
        return nothing, nothing
    spec = questions.resolved_spec.model_copy(update={"max_rows": max(1, len(questions.rows))})
    models = {"new": model_identity(provider.name, tuned)}

    def asked(rows: Sequence[Example], with_old: bool, rule: Sequence[str] | None) -> EvaluationResult | NotReported:
        generators: dict[str, Generator | Unavailable] = {}
        if with_old:
            generators["old"] = replay(questions, answers)
        generators["new"] = target()
        try:
            return evaluate(
                rows,
                generators,
                spec,
                scoring=ScoringOptions(labels=rule),
                answering=AnswerOptions(models=models, cache=cache),
            )
        except LlmtuneError as error:
            return NotReported(f"the new model could not be judged: {scrub(error.message)}")

    answered_keys = set(answers)
    with_answer = [
        row
        for key, row in zip(questions.keys, questions.rows, strict=True)
        if row.answer() is not None and (not answers or key in answered_keys)
    ]
    by_label: EvaluationResult | NotReported = NotReported("the rows have no reference answers")
    if with_answer:
        by_label = asked(with_answer, bool(answers), labels)
    if not answers:
        return by_label, NotReported(f"there is no golden set: {why_not}")
    # The old model's answers are no labels: it may have answered anything.
    return by_label, asked(build_reference_rows(questions, answers), False, ())


def evaluation_spec(max_rows: int) -> EvaluationSpec:
    """Return how both models are asked: greedily, at most `max_rows` rows; the old model is the baseline."""
    return EvaluationSpec(max_rows=max_rows, baselines=("majority",))
