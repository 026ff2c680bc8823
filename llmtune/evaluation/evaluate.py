"""The evaluation itself: ask base and tuned model the held-out rows, score both, and say how sure that is."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from llmtune._retry import RetryPolicy
from llmtune.data.example import Example
from llmtune.data.hashing import label_of
from llmtune.errors import InvalidData, LlmtuneError, MissingExtra, StoreUnavailable, TransientError
from llmtune.evaluation import scoring
from llmtune.evaluation.cache import AnswerCache
from llmtune.evaluation.cheap_models import nearest_answers, predict_labels
from llmtune.evaluation.inference import Answer
from llmtune.evaluation.predictions import Access, Answered, against, answer, labels_in, score_texts
from llmtune.evaluation.results import EvaluationResult, Fit, Latency, Majority, MetricValue, SystemResult, Usage
from llmtune.evaluation.sampling import contradictions, row_ids
from llmtune.evaluation.scoring import RowData
from llmtune.evaluation.task import Part, Questions, name_of, settle
from llmtune.evaluation.worst_rows import hardest_rows, worst_rows
from llmtune.job.spec import EvaluationSpec
from llmtune.metrics.classification import ClassificationResult, classify, classify_sets
from llmtune.metrics.comparison import Comparison
from llmtune.metrics.intervals import RESAMPLES
from llmtune.metrics.labels import LabelRule
from llmtune.metrics.points import NotReported, TokenStats
from llmtune.metrics.text import RowScore, TextMetric, token_figures
from llmtune.provider.generation import Generator, Unavailable
from llmtune.provider.types import Ref

#: Called with (system, answers there are, answers wanted).
OnProgress = Callable[[str, int, int], None]


def model_identity(provider: str, ref: Ref) -> str:
    """The name under which answers of a model are cached: the provider and everything its reference says."""
    return f"{provider} {json.dumps(ref.model_dump(mode='json'), sort_keys=True)}"


def evaluate(  # noqa: C901
    test: Sequence[Example],
    generators: Mapping[str, Generator | Unavailable],
    spec: EvaluationSpec | None = None,
    *,
    labels: Sequence[str] | None = None,
    train: Sequence[Example] = (),
    validation: Sequence[Example] = (),
    fit_rows: int = 0,
    metrics: Sequence[str | RowScore] | None = None,
    models: Mapping[str, str] | None = None,
    cache: AnswerCache | None = None,
    rule: str | LabelRule | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    patience: RetryPolicy | None = None,
    on_progress: OnProgress | None = None,
) -> EvaluationResult:
    """Answer the test rows with each system and score the answers.

    Label datasets are scored by the text that is generated, which is what a user of the model gets; where every system
    can tell the likelihood of each label, the accuracy of the likeliest one stands beside it. Answers are cached one by
    one: an evaluation that is killed goes on where it was.

    Args:
        test: the held-out rows; at most `spec.max_rows` of them are used, chosen by content.
        generators: "base" and "tuned" (any names; each is opened and closed here, one after the other), or
            `Unavailable` with the reason. "tuned" (else the last) is compared with the others and, for labels, with
            the majority class.
        spec: what is judged and how answers are generated; None is the default.
        labels: the label set of the dataset; None finds it by the rule of `llmtune.data` in all rows given.
            `spec.labels` comes first. An empty sequence says that the rows have no labels.
        train: the training rows: for the majority class, contradictions, and the fit.
        validation: the validation rows, for the fit.
        fit_rows: how many training and validation rows the tuned model is asked too, to tell underfit from overfit.
            0 asks none (they cost money at a vendor).
        metrics: names or functions, instead of `spec.metrics`.
        models: for each system, which model answers (`model_identity`); without it nothing is cached.
        cache: where answers are kept.
        rule: when a generated answer counts as a label; None is "normalised" unless that confuses two labels.
            "likelihood" takes the likeliest label as the answer, for models that serve it so (classifiers).
        seed: of sampled answers and of the resampling.
        resamples: bootstrap samples.
        patience: how long a backend that is unwell is waited for.
        on_progress: called as answers come in.

    Raises:
        InvalidData: no test rows, or a row whose label is not in the label set.
        UnknownName: a metric that does not exist.
        TransientError: a backend stayed unwell; calling again goes on from what is cached.
        LlmtuneError: no system could be asked.
    """
    spec = spec or EvaluationSpec()
    if not test:
        raise InvalidData(
            "there are no test rows to evaluate on", hint="give dataset.test, or a dataset.split with a test share"
        )
    every = (*train, *validation, *test)
    questions = settle(test, every, generators, spec, labels=labels, metrics=metrics, rule=rule, seed=seed)
    part = questions.part("test", test, spec.max_rows)
    judge = _Judge(questions, part, resamples, list(questions.said))
    if len(part.rows) < len(test):
        judge.warn(f"{len(part.rows):,} of {len(test):,} test rows were evaluated (evaluation.max_rows)")

    def access(name: str, title: str) -> Access:
        def progress(done: int, wanted: int) -> None:
            if on_progress is not None:
                on_progress(title, done, wanted)

        return Access((models or {}).get(name), cache, patience or RetryPolicy(), progress)

    tuned = "tuned" if "tuned" in generators else list(generators)[-1]
    systems: dict[str, SystemResult | NotReported] = {}
    fit: Fit | None = None
    base: Answered | None = None
    last_error: LlmtuneError | None = None
    for name, generator in generators.items():
        if isinstance(generator, Unavailable):
            systems[name] = NotReported(generator.reason)
            judge.warn(f"the {name} model was not asked: {generator.reason}")
            continue
        try:
            with generator as opened:
                answered = answer(questions, part, opened, access(name, name))
                if name == "base":
                    base = answered
                elif base is not None:
                    against(answered, base)
                systems[name] = judge.system(name, answered)
                if fit_rows and name == tuned:
                    fit = judge.fit(
                        {"train": train, "validation": validation},
                        fit_rows,
                        lambda each, opened=opened, name=name: answer(  # type: ignore[misc]
                            questions, each, opened, access(name, f"{name} on {each.name} rows")
                        ),
                    )
        except InvalidData as error:
            if name != "few_shot":
                raise
            systems[name] = NotReported(error.message)  # examples in the prompt may be too much for it
            judge.warn(f"the base model could not be asked with examples: {error.message}")
        except (TransientError, MissingExtra, StoreUnavailable):
            raise
        except LlmtuneError as error:
            from llmtune.redaction.secrets import scrub_error

            scrub_error(error)
            last_error = error
            systems.setdefault(name, NotReported(error.message))
            judge.warn(f"the {name} model could not be evaluated: {error.message}")
    if last_error is not None and not any(isinstance(each, SystemResult) for each in systems.values()):
        raise last_error
    found = judge.cheap_models(train)
    order = [name for name in systems if name != tuned]
    systems = {**{name: systems[name] for name in order}, **found, tuned: systems[tuned]}
    return judge.result(systems, tuned, fit, len(test), train)


@dataclass
class _Judge:
    """Turns answers into results, and collects what a reader of the numbers should know."""

    questions: Questions
    part: Part
    resamples: int
    warnings: list[str] = field(default_factory=list)

    def warn(self, sentence: str) -> None:
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    def system(self, name: str, out: Answered) -> SystemResult:
        """One system's metrics, with their intervals."""
        values: list[MetricValue] = []
        missing = dict(out.not_reported)
        for metric in self.questions.metrics:
            value = scoring.measure(metric, out.data, resamples=self.resamples, seed=self.questions.seed)
            if value is not None:
                values.append(value)
            else:
                missing.setdefault(name_of(metric), scoring.why_not(name_of(metric)))
        stats = [TokenStats(loss_sum=a, tokens=b, correct=c) for a, b, c in out.token_rows or ()]
        result = SystemResult(
            name=name,
            metrics=tuple(values),
            not_reported=missing,
            classification=self._classified(out),
            tokens=token_figures(stats) if stats else NotReported(missing.get("loss", scoring.why_not("loss"))),
            worst=tuple(worst_rows(out, self.questions)),
            failed=sum(each.refused is not None for each in out.answers),
            cut=sum(each.generation is not None and each.generation.finish_reason == "length" for each in out.answers),
            latency=_latency(out.answers),
            usage=_usage(out),
            scores={metric: tuple(column) for metric, column in out.scores.items()},
            predicted=None if out.predicted is None else tuple(out.predicted),
            token_rows=None if out.token_rows is None else tuple(out.token_rows),
        )
        self._look(result)
        return result

    def cheap_models(self, train: Sequence[Example]) -> dict[str, SystemResult]:
        """What models that cost next to nothing reach on the same rows; those that the job asks for and that fit."""
        questions, part = self.questions, self.part
        if not train or questions.scored_by == "loss" or questions.sets is not None:
            return {}
        out = Answered(part=part, labels=questions.labels)
        if questions.labels is not None:
            places = predict_labels(train, part.rows, questions.labels) if questions.spec.measures("linear") else ""
            if isinstance(places, str):
                return {}
            out.predicted, out.got = places, [questions.labels[place] for place in places]
            return {"linear": self.system("linear", out).model_copy(update={"worst": ()})}
        if questions.scored_by != "text" or not questions.spec.measures("nearest"):
            return {}
        if not any(isinstance(metric, TextMetric) for metric in questions.metrics):
            return {}
        answers = nearest_answers(train, part.rows)
        if isinstance(answers, str):
            return {}
        out.got = list(answers)
        score_texts(out, questions)
        return {"nearest": self.system("nearest", out).model_copy(update={"worst": ()})}

    def _classified(self, out: Answered) -> ClassificationResult | None:
        beta = scoring.beta_of(self.questions.metrics)
        if self.questions.sets is not None:
            true = [row.label if isinstance(row.label, tuple) else () for row in out.part.rows]
            said = [None if text is None else labels_in(text) for text in out.got]
            return classify_sets(true, said, self.questions.sets, beta=beta) if out.got else None
        labels, rule, truth = self.questions.labels, self.questions.rule, out.part.truth
        if labels is None or rule is None or truth is None or out.predicted is None:
            return None
        return classify([labels[place] for place in truth], out.got, labels, rule=rule, beta=beta)

    def _look(self, result: SystemResult) -> None:
        if result.failed:
            self.warn(f"{result.name}: {result.failed} rows were refused by the backend and count as wrong")
        if result.cut:
            limit = self.questions.max_tokens
            self.warn(f"{result.name}: {result.cut} answers were cut off at {limit} tokens (evaluation.max_tokens)")
        found = result.classification
        if found is None:
            return
        if found.outside:
            self.warn(f"{result.name}: {found.outside} of {found.rows} answers are outside the label set")
        empty = sum(not each.support for each in found.classes)
        if empty:
            self.warn(f"{empty} of {len(found.labels)} labels have no evaluated row; macro figures are over the others")

    def fit(self, parts: Mapping[str, Sequence[Example]], most: int, ask: Callable[[Part], Answered]) -> Fit | None:
        """The tuned model on rows it was trained on, and on validation rows, by the first metric it has there."""
        values: dict[str, MetricValue | None] = {}
        hardest = []
        for name, rows in parts.items():
            if not rows:
                continue
            try:
                out = ask(self.questions.part(name, rows, most))
            except InvalidData as error:
                self.warn(f"the fit on {name} rows was not measured: {error.message}")
                continue
            measured = (
                scoring.measure(metric, out.data, resamples=self.resamples, seed=self.questions.seed)
                for metric in self.questions.metrics
            )
            values[name] = next((value for value in measured if value is not None), None)
            if name == "train":
                hardest = hardest_rows(out)
        train, validation = values.get("train"), values.get("validation")
        if train is None and validation is None:
            return None
        main = train or validation
        assert main is not None
        return Fit(metric=main.name, train=train, validation=validation, hardest=tuple(hardest))

    def result(
        self,
        systems: dict[str, SystemResult | NotReported],
        tuned: str,
        fit: Fit | None,
        available: int,
        train: Sequence[Example],
    ) -> EvaluationResult:
        """Everything together, with the comparisons."""
        questions, part = self.questions, self.part
        answered = [each for each in systems.values() if isinstance(each, SystemResult)]
        present = {metric.name for each in answered for metric in each.metrics}
        names = [name_of(metric) for metric in questions.metrics]
        majority, always = self._majority(train)
        clashes = contradictions({"train": train, "test": part.rows}) if questions.labels else []
        if clashes:
            many = "a prompt stands" if len(clashes) == 1 else f"{len(clashes)} prompts stand"
            places = " and ".join(where for _, where in clashes[0].answers[:2])
            self.warn(f"{many} with different labels (such as {places}): no model can get all of them right")
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
            comparisons=tuple(self._compared(answered, tuned, always)),
            fit=fit,
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

    def _compared(self, answered: list[SystemResult], tuned: str, always: RowData | None) -> list[Comparison]:
        labels = len(self.questions.labels or ())
        data = {each.name: scoring.result_data(each, self.part.truth, labels) for each in answered}
        if tuned not in data:
            return []
        found: list[Comparison | None] = []
        for metric in self.questions.metrics:
            rivals = {name: each for name, each in data.items() if name != tuned}
            if metric == "accuracy" and always is not None:
                rivals["majority"] = always
            for name, rival in rivals.items():
                found.append(
                    scoring.compare_data(
                        name_of(metric),
                        rival,
                        data[tuned],
                        better=scoring.describe(metric)[2],
                        name_a=name,
                        name_b=tuned,
                        resamples=self.resamples,
                        seed=self.questions.seed,
                    )
                )
        return [each for each in found if each is not None]

    def _majority(self, train: Sequence[Example]) -> tuple[Majority | None, RowData | None]:
        labels, truth = self.questions.labels, self.part.truth
        if labels is None or truth is None or not self.questions.spec.measures("majority"):
            return None, None
        in_train = Counter(label for row in train if (label := label_of(row)) in labels)
        counted = in_train or Counter(labels[place] for place in truth)
        label = min(counted, key=lambda each: (-counted[each], labels.index(each)))
        always = RowData(labels=len(labels), truth=truth, predicted=[labels.index(label)] * len(truth))
        accuracy = scoring.measure("accuracy", always, resamples=self.resamples, seed=self.questions.seed)
        assert accuracy is not None
        return Majority(label=label, accuracy=accuracy, source="train" if in_train else "test"), always


def _latency(answers: Sequence[Answer]) -> Latency | NotReported:
    generations = [each.generation for each in answers if each.generation is not None]
    seconds = sorted(each.seconds for each in generations if each.seconds is not None)
    if not seconds:
        return NotReported("the backend tells no times" if generations else "nothing was generated")

    def at(share: float) -> float:
        place = share * (len(seconds) - 1)
        low = math.floor(place)
        high = min(low + 1, len(seconds) - 1)
        return seconds[low] + (seconds[high] - seconds[low]) * (place - low)

    return Latency(p50=at(0.5), p95=at(0.95), answers=len(seconds))


def _usage(out: Answered) -> Usage:
    generations = [each.generation for each in out.answers if each.generation is not None]

    def total(counts: list[int | None]) -> int | NotReported:
        known = [count for count in counts if count is not None]
        if not counts:
            return NotReported("nothing was generated")
        return sum(known) if len(known) == len(counts) else NotReported("the backend does not count tokens")

    return Usage(
        prompt_tokens=total([each.prompt_tokens for each in generations]),
        completion_tokens=total([each.completion_tokens for each in generations]),
        asked=out.asked,
        cached=out.cached,
    )
