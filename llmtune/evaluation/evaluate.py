"""`evaluate`: ask base and tuned model the held-out rows, and score both, with confidence intervals."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from llmtune._retry import RetryPolicy
from llmtune.data.example import Example
from llmtune.data.hashing import label_of
from llmtune.data.stored_rows import ChainedRows
from llmtune.errors import InvalidData, LlmtuneError, MissingExtra, StoreUnavailable, TransientError
from llmtune.evaluation import scoring
from llmtune.evaluation.cache import AnswerCache
from llmtune.evaluation.cheap_models import nearest_answers, predict_probabilities
from llmtune.evaluation.decisions import LabelledScores, measure_decisions
from llmtune.evaluation.inference import Answer
from llmtune.evaluation.judge.measure import JudgeRun
from llmtune.evaluation.judge.results import JudgeResult
from llmtune.evaluation.panel.measure import PanelRun
from llmtune.evaluation.predictions import (
    ModelAccess,
    Predictions,
    add_implicit_rewards,
    add_probabilities,
    answer_questions,
    labels_in,
    score_part,
    score_texts,
    sum_usage,
)
from llmtune.evaluation.results import EvaluationResult, Fit, Latency, Majority, MetricValue, PanelResult, SystemResult
from llmtune.evaluation.sampling import find_contradictions, row_ids
from llmtune.evaluation.scoring import RowData
from llmtune.evaluation.task import Part, Questions, ScoringOptions, resolve_task
from llmtune.evaluation.worst_rows import highest_loss_rows, worst_rows
from llmtune.job.spec import EvaluationSpec
from llmtune.metrics.calibration import SMALLEST, measure_calibration
from llmtune.metrics.classification import ClassificationResult, classify, classify_sets
from llmtune.metrics.comparison import Comparison
from llmtune.metrics.points import NotReported, TokenStats
from llmtune.metrics.registry import METRICS
from llmtune.metrics.text import token_figures
from llmtune.provider.generation import Generator, Unavailable
from llmtune.provider.types import Ref

#: Called with (system, answers so far, answers in all).
OnProgress = Callable[[str, int, int], None]


def model_identity(provider: str, ref: Ref) -> str:
    """Return the name under which the answers of a model are cached: its provider and its whole reference."""
    return f"{provider} {json.dumps(ref.model_dump(mode='json'), sort_keys=True)}"


@dataclass(frozen=True)
class AnswerOptions:
    """How the systems of an evaluation are asked."""

    models: Mapping[str, str] = field(default_factory=dict)
    """For each system, which model answers (`model_identity`); a system that is not named here is not cached."""

    cache: AnswerCache | None = None
    """Where answers are looked up and stored; None caches nothing."""

    patience: RetryPolicy | None = None
    """How failed calls are retried; None is the default policy."""

    on_progress: OnProgress | None = None
    """Called as answers come in."""

    panel: PanelRun | NotReported | None = None
    """Questions outside the task, which "base" and the tuned model are asked too; the reason where they cannot be
    asked; None asks none."""

    judge: JudgeRun | NotReported | None = None
    """A judge of the answers of "base" and the tuned model; the reason where it cannot be asked; None asks none."""

    def for_system(self, name: str, title: str) -> ModelAccess:
        """Return the access to one system; its progress is reported under `title`."""
        return self.for_model(self.models.get(name), title)

    def for_model(self, identity: str | None, title: str) -> ModelAccess:
        """Return the access to the model that is stored under `identity`; its progress is reported under `title`."""

        def progress(done: int, total: int) -> None:
            if self.on_progress is not None:
                self.on_progress(title, done, total)

        return ModelAccess(identity, self.cache, self.patience or RetryPolicy(), progress)


def evaluate(
    test: Sequence[Example],
    generators: Mapping[str, Generator | Unavailable],
    spec: EvaluationSpec | None = None,
    *,
    train: Sequence[Example] = (),
    validation: Sequence[Example] = (),
    fit_rows: int = 0,
    scoring: ScoringOptions = ScoringOptions(),  # noqa: B008
    answering: AnswerOptions = AnswerOptions(),
) -> EvaluationResult:
    """Answer the test rows with each system and score the answers.

    Label datasets are scored by the generated text, which is what a user of the model gets. Where every system reports
    the likelihood of each label, the accuracy of the likeliest label is reported as well. Answers are cached one by
    one: an evaluation that is killed continues where it stopped.

    Args:
        test: the held-out rows; at most `spec.max_rows` of them are used, chosen by content.
        generators: "base" and "tuned" (or any other names), each opened and closed here, one after the other; or
            `Unavailable` with the reason. "tuned" (else the last) is compared with the others and, for labels, with
            the majority class.
        spec: what is evaluated and how answers are generated; None is the default. Calibrates where it says on how
            many rows.
        train: the training rows: for the majority class, contradictions, and the fit.
        validation: the validation rows, for the fit and the calibration.
        fit_rows: how many training and validation rows the tuned model is asked as well, to tell underfitting from
            overfitting. 0 asks none (a vendor bills them).
        scoring: labels, metrics, rule and seed.
        answering: cache, retries, progress, a panel of questions outside the task, and a judge.

    Returns:
        The metrics of every system, with intervals, and the comparisons.

    Raises:
        InvalidData: there are no test rows, or a row's label is not in the label set.
        UnknownName: a metric does not exist.
        TransientError: a backend stayed unavailable; calling again continues from the cached answers.
        LlmtuneError: no system could be asked.
    """
    spec = spec or EvaluationSpec()
    if not test:
        raise InvalidData(
            "there are no test rows to evaluate on", hint="give dataset.test, or a dataset.split with a test share"
        )
    questions = resolve_task(test, ChainedRows(train, validation, test), generators, spec, scoring)
    part = questions.part("test", test, spec.max_rows)
    builder = _ResultBuilder(questions, part, scoring.resamples, warnings=list(questions.notes))
    if spec.calibration_rows and validation and questions.wants_probabilities:
        try:
            builder.held = questions.part("calibration", validation, spec.calibration_rows)
        except InvalidData as error:
            builder.warn(f"nothing was calibrated: {error.message}")
    if len(part.rows) < len(test):
        builder.warn(f"{len(part.rows):,} of {len(test):,} test rows were evaluated (evaluation.max_rows)")
    tuned = "tuned" if "tuned" in generators else list(generators)[-1]
    fit_parts = {"train": train, "validation": validation} if fit_rows else {}
    builder.panel = panel = answering.panel
    runner = _SystemRunner(builder, answering, tuned, fit_parts, fit_rows)
    if isinstance(panel, PanelRun) and panel.base is not None and "base" not in generators:
        runner.run_panel("base", panel.base)
    for name, generator in generators.items():
        runner.run(name, generator)
    builder.judge = runner.ask_judge()
    systems = runner.systems
    if runner.last_error is not None and not any(isinstance(system, SystemResult) for system in systems.values()):
        raise runner.last_error
    order = [name for name in systems if name != tuned]
    systems = {
        **{name: systems[name] for name in order},
        **builder.score_cheap_models(train),
        tuned: systems[tuned],
    }
    return builder.build_result(systems, tuned, runner.fit, len(test), train)


@dataclass
class _SystemRunner:
    """Asks one system after the other, and keeps the result of each or the reason why there is none."""

    builder: _ResultBuilder
    answering: AnswerOptions
    tuned: str
    fit_parts: Mapping[str, Sequence[Example]]
    """The training and validation rows; empty when the fit is not measured."""

    fit_rows: int
    systems: dict[str, SystemResult | NotReported] = field(default_factory=dict)
    fit: Fit | None = None
    base: Predictions | None = None
    tuned_predictions: Predictions | None = None
    last_error: LlmtuneError | None = None

    def run(self, name: str, generator: Generator | Unavailable) -> None:
        """Ask one system. Raises errors that a later call may not meet (`TransientError`) or that concern the rows."""
        if isinstance(generator, Unavailable):
            self.systems[name] = NotReported(generator.reason)
            self._leave_out_panel(name, generator.reason)
            self.builder.warn(f"the {name} model was not asked: {generator.reason}")
            return
        try:
            with generator as opened:
                self._ask(name, opened)
        except InvalidData as error:
            if name != "few_shot":
                raise
            self.systems[name] = NotReported(error.message)  # examples in the prompt may exceed its context
            self.builder.warn(f"the base model could not be asked with examples: {error.message}")
        except (TransientError, MissingExtra, StoreUnavailable):
            raise
        except LlmtuneError as error:
            from llmtune.redaction.secrets import scrub_error

            scrub_error(error)
            self.last_error = error
            self.systems.setdefault(name, NotReported(error.message))
            self._leave_out_panel(name, error.message)
            self.builder.warn(f"the {name} model could not be evaluated: {error.message}")

    def run_panel(self, name: str, generator: Generator | Unavailable) -> None:
        """Ask a model the questions of the panel alone. Raises errors that a later call may not meet."""
        if isinstance(generator, Unavailable):
            self._leave_out_panel(name, generator.reason)
            return
        try:
            with generator as opened:
                self._ask_panel(name, opened)
        except (TransientError, MissingExtra, StoreUnavailable):
            raise
        except LlmtuneError as error:
            from llmtune.redaction.secrets import scrub

            self._leave_out_panel(name, scrub(error.message))

    def ask_judge(self) -> JudgeResult | NotReported | None:
        """Ask the judge about the answers; the reason where it was not asked, None where there is none."""
        run, tuned = self.answering.judge, self.tuned_predictions
        if not isinstance(run, JudgeRun):
            judged: JudgeResult | NotReported | None = run
        elif tuned is None:
            judged = NotReported("the tuned model gave no answers")
        elif not tuned.answers:
            judged = NotReported("a judge reads what models write, and of these rows only likelihoods were measured")
        else:
            judged = run.judge(
                self.builder.part.rows,
                self.base.got if self.base is not None and self.base.answers else None,
                tuned.got,
                lambda identity: self.answering.for_model(identity, run.title),
                resamples=self.builder.resamples,
            )
        if isinstance(judged, NotReported):
            self.builder.warn(f"no answer was judged: {judged.reason}")
        return judged

    def _leave_out_panel(self, name: str, reason: str) -> None:
        if isinstance(self.builder.panel, PanelRun) and name in ("base", self.tuned):
            self.builder.panel.leave_out(self._panel_name(name), reason)

    def _panel_name(self, name: str) -> str:
        return "tuned" if name == self.tuned else name

    def _ask_panel(self, name: str, generator: Generator) -> None:
        panel = self.builder.panel
        if isinstance(panel, PanelRun) and name in ("base", self.tuned):
            access = self.answering.for_system(name, f"{name} on panel questions")
            panel.ask(self._panel_name(name), generator, access)

    def _ask(self, name: str, generator: Generator) -> None:
        questions = self.builder.questions
        predictions = answer_questions(questions, self.builder.part, generator, self.answering.for_system(name, name))
        if name == "base":
            self.base = predictions
        elif self.base is not None:
            add_implicit_rewards(predictions, self.base)
        if name == self.tuned:
            self.tuned_predictions = predictions
        self.systems[name] = system = self.builder.build_system(name, predictions)
        self._ask_panel(name, generator)
        if name == self.tuned and (held := self.builder.held) is not None:
            access = self.answering.for_system(name, f"{name} on {held.name} rows")
            try:
                held_scores = score_part(questions, held, generator, access)
            except InvalidData as error:  # a prompt does not fit the model's context
                self.builder.warn(f"the {name} model was not calibrated: {error.message}")
            else:
                self.systems[name] = self.builder.add_decisions(system, predictions, held_scores)
        if self.fit_parts and name == self.tuned:
            self.fit = self.builder.measure_fit(
                self.fit_parts,
                self.fit_rows,
                lambda part: answer_questions(
                    questions, part, generator, self.answering.for_system(name, f"{name} on {part.name} rows")
                ),
            )


@dataclass
class _ResultBuilder:
    """Turns answers into results, and collects warnings about them."""

    questions: Questions
    part: Part
    resamples: int
    held: Part | None = None
    """Validation rows to calibrate on; None calibrates nothing."""

    panel: PanelRun | NotReported | None = None
    """Questions outside the task; the reason where they cannot be asked; None asks none."""

    judge: JudgeResult | NotReported | None = None
    """What a judge said of the answers; None where there is none."""

    warnings: list[str] = field(default_factory=list)

    def warn(self, sentence: str) -> None:
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    def build_system(self, name: str, predictions: Predictions) -> SystemResult:
        """Compute the metrics of one system, with their intervals."""
        values: list[MetricValue] = []
        missing = dict(predictions.not_reported)
        for metric in self.questions.metrics:
            value = scoring.measure(metric, predictions.data, resamples=self.resamples, seed=self.questions.seed)
            if value is not None:
                values.append(value)
            else:
                missing.setdefault(metric.name, scoring.explain_missing(metric))
        stats = [TokenStats(loss_sum=a, tokens=b, correct=c) for a, b, c in predictions.token_rows or ()]
        result = SystemResult(
            name=name,
            metrics=tuple(values),
            not_reported=missing,
            classification=self._classify(predictions),
            calibration=None
            if predictions.probabilities is None or predictions.part.truth is None
            else measure_calibration(predictions.probabilities, predictions.part.truth),
            tokens=token_figures(stats)
            if stats
            else NotReported(missing.get("loss", scoring.explain_missing(METRICS["loss"]))),
            worst=tuple(worst_rows(predictions, self.questions)),
            failed=sum(answer.refused is not None for answer in predictions.answers),
            cut=sum(
                answer.generation is not None and answer.generation.finish_reason == "length"
                for answer in predictions.answers
            ),
            latency=_summarise_latency(predictions.answers),
            usage=sum_usage(predictions),
            scores={metric: tuple(column) for metric, column in predictions.scores.items()},
            predicted=None if predictions.predicted is None else tuple(predictions.predicted),
            token_rows=None if predictions.token_rows is None else tuple(predictions.token_rows),
        )
        self._add_warnings(result)
        return result

    def score_cheap_models(self, train: Sequence[Example]) -> dict[str, SystemResult]:
        """Score the cheap models on the same rows: those that the job asks for and that suit the rows."""
        questions, part = self.questions, self.part
        if not train or questions.scored_by == "loss" or questions.sets is not None:
            return {}
        predictions = Predictions(part=part, labels=questions.labels)
        if questions.labels is not None:
            asked = [*part.rows, *(self.held.rows if self.held is not None else ())]
            predicted = (
                predict_probabilities(train, asked, questions.labels) if questions.spec.measures("linear") else ""
            )
            if isinstance(predicted, str):
                return {}
            rows, held_rows = predicted[: len(part.rows)], predicted[len(part.rows) :]
            predictions.predicted = [max(range(len(row)), key=row.__getitem__) for row in rows]
            predictions.got = [questions.labels[index] for index in predictions.predicted]
            if questions.wants_probabilities:
                add_probabilities(predictions, rows, _take_logarithms(rows))
            system = self.build_system("linear", predictions).model_copy(update={"worst": ()})
            return {"linear": self.add_decisions(system, predictions, _take_logarithms(held_rows))}
        if questions.scored_by != "text" or not questions.spec.measures("nearest"):
            return {}
        if not any(metric.kind == "text" for metric in questions.metrics):
            return {}
        answers = nearest_answers(train, part.rows)
        if isinstance(answers, str):
            return {}
        predictions.got = list(answers)
        score_texts(predictions, questions)
        return {"nearest": self.build_system("nearest", predictions).model_copy(update={"worst": ()})}

    def add_decisions(
        self, system: SystemResult, predictions: Predictions, held_scores: list[list[float]] | None
    ) -> SystemResult:
        """Calibrate a system's labels on the held rows, of which `held_scores` has the log-likelihoods."""
        held, part, labels = self.held, self.part, self.questions.labels
        if held is None or held.truth is None or part.truth is None or labels is None:
            return system
        if held_scores is None or predictions.label_scores is None:
            return system
        decisions = measure_decisions(
            labels,
            LabelledScores(held_scores, held.truth),
            LabelledScores(predictions.label_scores, part.truth),
            self.questions.spec.abstain,
            resamples=self.resamples,
            seed=self.questions.seed,
        )
        return system.model_copy(update={"decisions": decisions})

    def _classify(self, predictions: Predictions) -> ClassificationResult | None:
        beta = scoring.find_beta(self.questions.metrics)
        if self.questions.sets is not None:
            true = [row.label if isinstance(row.label, tuple) else () for row in predictions.part.rows]
            answered = [None if text is None else labels_in(text) for text in predictions.got]
            return classify_sets(true, answered, self.questions.sets, beta=beta) if predictions.got else None
        labels, rule, truth = self.questions.labels, self.questions.rule, predictions.part.truth
        if labels is None or rule is None or truth is None or predictions.predicted is None:
            return None
        return classify([labels[index] for index in truth], predictions.got, labels, rule=rule, beta=beta)

    def _add_warnings(self, result: SystemResult) -> None:
        if result.failed:
            self.warn(f"{result.name}: {result.failed} rows were refused by the backend and count as wrong")
        if result.cut:
            limit = self.questions.max_tokens
            self.warn(f"{result.name}: {result.cut} answers were cut off at {limit} tokens (evaluation.max_tokens)")
        classification = result.classification
        if classification is None:
            return
        if classification.outside:
            self.warn(
                f"{result.name}: {classification.outside} of {classification.rows} answers are outside the label set"
            )
        empty = sum(not figures.support for figures in classification.classes)
        if empty:
            labels = len(classification.labels)
            self.warn(f"{empty} of {labels} labels have no evaluated row; macro figures are over the others")

    def measure_fit(
        self, parts: Mapping[str, Sequence[Example]], limit: int, ask: Callable[[Part], Predictions]
    ) -> Fit | None:
        """Score the tuned model on training and validation rows, by the first metric they have; `ask` answers them."""
        values: dict[str, MetricValue | None] = {}
        hardest = []
        for name, rows in parts.items():
            if not rows:
                continue
            try:
                predictions = ask(self.questions.part(name, rows, limit))
            except InvalidData as error:
                self.warn(f"the fit on {name} rows was not measured: {error.message}")
                continue
            measured = (
                scoring.measure(metric, predictions.data, resamples=self.resamples, seed=self.questions.seed)
                for metric in self.questions.metrics
            )
            values[name] = next((value for value in measured if value is not None), None)
            if name == "train":
                hardest = highest_loss_rows(predictions)
        train, validation = values.get("train"), values.get("validation")
        if train is None and validation is None:
            return None
        main = train or validation
        assert main is not None
        return Fit(metric=main.name, train=train, validation=validation, hardest=tuple(hardest))

    def build_result(
        self,
        systems: dict[str, SystemResult | NotReported],
        tuned: str,
        fit: Fit | None,
        available: int,
        train: Sequence[Example],
    ) -> EvaluationResult:
        """Put the results of all systems together, with their comparisons."""
        questions, part = self.questions, self.part
        answered = [system for system in systems.values() if isinstance(system, SystemResult)]
        present = {metric.name for system in answered for metric in system.metrics}
        names = [metric.name for metric in questions.metrics]
        majority, always = self._score_majority(train)
        clashes = find_contradictions({"train": train, "test": part.rows}) if questions.labels else []
        if clashes:
            prompts = "a prompt occurs" if len(clashes) == 1 else f"{len(clashes)} prompts occur"
            sources = " and ".join(where for _, where in clashes[0].answers[:2])
            self.warn(f"{prompts} with different labels (such as {sources}): no model can answer all of them correctly")
        by_text = questions.scored_by == "text"
        spec = questions.spec
        return EvaluationResult(
            rows=len(part.rows),
            available=available,
            row_ids=tuple(row_ids(part.rows)),
            main=next((name for name in names if name in present), names[0]),
            scored_by=questions.scored_by,
            labels=questions.labels,
            truth=None if part.truth is None else tuple(part.truth),
            labels_told=questions.labels_told,
            rule=None if questions.rule is None else f"{questions.rule.name}: {questions.rule.says}",
            systems=systems,
            majority=majority,
            comparisons=tuple(self._compare_systems(answered, tuned, always)),
            fit=fit,
            panel=self._measure_panel(),
            judge=self.judge,
            contradictions=tuple(clashes),
            warnings=tuple(self.warnings),
            resamples=self.resamples,
            seed=questions.seed,
            generation={
                "temperature": spec.temperature,
                "top_p": spec.top_p,
                "top_k": spec.top_k,
                "max_tokens": questions.max_tokens,
            }
            if by_text
            else {},
        )

    def _measure_panel(self) -> PanelResult | NotReported | None:
        if isinstance(self.panel, NotReported):
            self.warn(f"the panel was not asked: {self.panel.reason}")
            return self.panel
        if self.panel is None:
            return None
        try:
            result = self.panel.build_result(resamples=self.resamples)
        except InvalidData as error:  # a task's own metric failed: the test rows are evaluated all the same
            self.warn(f"the panel was not scored: {error.message}")
            return NotReported(error.message)
        for name, system in result.systems.items():
            if isinstance(system, NotReported):
                self.warn(f"the {name} model was not asked the panel: {system.reason}")
        for kind, reason in result.left_out.items():
            self.warn(f"the panel was asked without its {kind}: {reason}")
        return result

    def _compare_systems(self, answered: list[SystemResult], tuned: str, always: RowData | None) -> list[Comparison]:
        labels = len(self.questions.labels or ())
        data = {system.name: scoring.build_row_data(system, self.part.truth, labels) for system in answered}
        if tuned not in data:
            return []
        comparisons: list[Comparison | None] = []
        for metric in self.questions.metrics:
            rivals = {name: row_data for name, row_data in data.items() if name != tuned}
            if metric.name == "accuracy" and always is not None:
                rivals["majority"] = always
            for name, rival in rivals.items():
                comparisons.append(
                    scoring.compare_data(
                        metric.name,
                        rival,
                        data[tuned],
                        better=metric.better,
                        names=(name, tuned),
                        resamples=self.resamples,
                        seed=self.questions.seed,
                    )
                )
        return [comparison for comparison in comparisons if comparison is not None]

    def _score_majority(self, train: Sequence[Example]) -> tuple[Majority | None, RowData | None]:
        labels, truth = self.questions.labels, self.part.truth
        if labels is None or truth is None or not self.questions.spec.measures("majority"):
            return None, None
        in_train = Counter(label for row in train if (label := label_of(row)) in labels)
        counted = in_train or Counter(labels[index] for index in truth)
        label = min(counted, key=lambda candidate: (-counted[candidate], labels.index(candidate)))
        always = RowData(labels=len(labels), truth=truth, predicted=[labels.index(label)] * len(truth))
        accuracy = scoring.measure(METRICS["accuracy"], always, resamples=self.resamples, seed=self.questions.seed)
        assert accuracy is not None
        return Majority(label=label, accuracy=accuracy, source="train" if in_train else "test"), always


def _take_logarithms(probabilities: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[math.log(max(SMALLEST, value)) for value in row] for row in probabilities]


def _summarise_latency(answers: Sequence[Answer]) -> Latency | NotReported:
    generations = [answer.generation for answer in answers if answer.generation is not None]
    seconds = sorted(generation.seconds for generation in generations if generation.seconds is not None)
    if not seconds:
        return NotReported("the backend reports no times" if generations else "nothing was generated")

    def at(share: float) -> float:
        position = share * (len(seconds) - 1)
        low = math.floor(position)
        high = min(low + 1, len(seconds) - 1)
        return seconds[low] + (seconds[high] - seconds[low]) * (position - low)

    return Latency(p50=at(0.5), p95=at(0.95), answers=len(seconds))
